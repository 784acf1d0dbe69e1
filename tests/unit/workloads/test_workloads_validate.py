"""A workload with a mistake is stopped before the run, and told which method is wrong."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import workloads
from protocol.errors import DataError, WorkloadError
from workloads import Fingerprint, Metric, Workload, validate_workload


class Tiny(Workload):
    """Six instances of three numbers, two classes; each test breaks one method."""

    name = "tiny"

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("tiny-train:0", 6)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(list(ids))
        return rows[:, None] * torch.ones(1, 3), rows % 2

    def boss(self) -> nn.Module:
        return nn.Linear(3, 2)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        return Metric("accuracy", 0.5)


def test_a_workload_without_features_labels_and_lengths_is_valid() -> None:
    validate_workload(Tiny())


def test_one_instance_is_enough() -> None:
    tiny = Tiny()
    tiny.fingerprint = lambda: Fingerprint("tiny-train:0", 1)  # type: ignore[method-assign]
    validate_workload(tiny)


def test_optional_arrays_of_the_right_kind_are_valid() -> None:
    tiny = Tiny()
    tiny.features = lambda: np.zeros((6, 4), np.float32)  # type: ignore[method-assign]
    tiny.labels = lambda: np.array([0, 1, 0, 1, 0, 1])  # type: ignore[method-assign]
    tiny.lengths = lambda: np.array([1, 2, 3, 4, 5, 6])  # type: ignore[method-assign]
    validate_workload(tiny)


def raises(*_: object) -> object:
    raise KeyError("pixels")


MISTAKES: list[tuple[str, Callable[..., object], str]] = [
    ("fingerprint", lambda: ("tiny", 6), r"fingerprint\(\) returned \('tiny', 6\); expected a Fingerprint"),
    ("fingerprint", lambda: Fingerprint("x", 0), "n of at least 1"),
    ("features", lambda: np.zeros((6, 4)), r"features\(\) returned float64 of shape \(6, 4\); expected a float32"),
    ("features", lambda: np.zeros((5, 4), np.float32), r"shape \(5, 4\); expected a float32 array of shape \(6, d\)"),
    ("features", lambda: np.zeros((6, 2, 2), np.float32), r"shape \(6, 2, 2\)"),
    ("features", lambda: torch.zeros(6, 4), r"features\(\) returned Tensor"),
    ("features", lambda: np.full((6, 4), np.nan, np.float32), "NaN or infinity"),
    ("labels", lambda: np.zeros(5, np.int64), r"labels\(\) returned int64 of shape \(5,\)"),
    ("labels", lambda: np.zeros(6, np.int32), r"labels\(\) returned int32"),
    ("labels", lambda: np.full(6, -1), "least value of -1; expected classes from 0 up"),
    ("labels", lambda: np.full(6, 6), "greatest value of 6"),
    ("labels", lambda: [0] * 6, r"labels\(\) returned list"),
    ("lengths", lambda: np.zeros(6, np.int64), r"lengths\(\) returned a least value of 0"),
    ("batch", lambda ids: (torch.zeros(3, 3), torch.zeros(2)), r"inputs of shape \(3, 3\); expected 2 rows"),
    ("batch", lambda ids: (torch.zeros(2, 3), torch.tensor(1)), r"targets of shape \(\); expected 2 rows"),
    ("batch", lambda ids: [torch.zeros(2, 3)], r"batch\(\[0, 5\]\) returned list; expected two tensors"),
    ("batch", raises, r"batch\(\[0, 5\]\) raised KeyError: 'pixels'"),
    ("boss", lambda: "model", r"boss\(\) returned str; expected a torch.nn.Module"),
    ("boss", lambda: nn.Linear(4, 2), "the Boss's forward pass raised RuntimeError"),
    ("losses", nn.functional.cross_entropy, r"losses\(\) returned shape \(\);.*reduction='none'"),
    ("losses", lambda o, t: o, r"losses\(\) returned shape \(2, 2\)"),
    ("losses", lambda o, t: [1.0, 2.0], r"losses\(\) returned list"),
    ("losses", lambda o, t: o.detach().sum(1), "without gradient"),
    ("losses", lambda o, t: o.sum(1) / 0, "expected finite losses"),
    ("losses", raises, r"losses\(\) raised KeyError: 'pixels' at .*test_workloads_validate.py:\d+; mend it there"),
    ("optimizer", lambda boss: None, r"optimizer\(\) returned NoneType; expected a torch.optim.Optimizer"),
    ("optimizer", raises, r"optimizer\(\) raised KeyError"),
    ("lr_factor", lambda progress: None, r"lr_factor\(0\) returned None; expected a finite number"),
    ("lr_factor", lambda progress: 1 / progress, r"lr_factor\(0\) raised ZeroDivisionError"),
    ("lr_factor", lambda progress: 0.5 - progress, r"lr_factor\(1\) returned -0.5"),
    ("features", lambda: sys.exit(3), r"features\(\) raised SystemExit: 3"),
]


@pytest.mark.parametrize(("method", "mistake", "complaint"), MISTAKES)
def test_a_mistake_names_workload_method_and_expectation(
    method: str, mistake: Callable[..., object], complaint: str
) -> None:
    tiny = Tiny()
    setattr(tiny, method, mistake)
    with pytest.raises(WorkloadError, match=f"^workload tiny: .*{complaint}") as caught:
        validate_workload(tiny)
    assert "\n" not in str(caught.value)
    assert f"Tiny.{method}(" in str(caught.value) or "forward pass" in str(caught.value)
    assert "; expected " in str(caught.value) or "; mend it there" in str(caught.value)


def test_a_data_error_is_not_dressed_as_a_mistake_of_the_workload() -> None:
    def missing() -> Fingerprint:
        raise DataError("the file is missing")

    tiny = Tiny()
    tiny.fingerprint = missing  # type: ignore[method-assign]
    with pytest.raises(DataError, match="the file is missing"):
        validate_workload(tiny)


def test_validation_does_not_move_torchs_random_numbers() -> None:
    """Else a validated run would start from other weights than one that was not."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    validate_workload(Tiny())
    assert torch.equal(torch.rand(3), expected)


def test_workloads_import_nothing_of_ours_but_protocol() -> None:
    ours = {"broker", "assistant", "boss", "autoassist"}
    for file in Path(workloads.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.partition(".")[0] for name in names} & ours, file
