"""A mistake that shows only late in a run is told like one that shows at its start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from protocol.errors import DataError, WorkloadError
from tests.unit.workloads.test_workloads_validate import Tiny, raises
from workloads import CheckedWorkload, Fingerprint, Metric, Workload
from workloads.digits import Digits

CPU = torch.device("cpu")


def evaluated(answer: Callable[..., object]) -> Metric:
    """What a checked evaluation makes of this answer."""
    tiny = Tiny()
    tiny.evaluate = answer  # type: ignore[method-assign, assignment]
    return CheckedWorkload(tiny).evaluate(nn.Linear(3, 2), CPU)


def test_a_metric_passes_as_it_is() -> None:
    assert evaluated(lambda boss, device: Metric("bleu", 31.5)) == Metric("bleu", 31.5)
    loss = Metric("test_loss", 0.25, higher_is_better=False)
    assert evaluated(lambda boss, device: loss) == loss


@pytest.mark.parametrize("value", [np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5]), 1, True, float("nan")])
def test_a_value_of_any_library_that_is_a_number_becomes_a_float(value: object) -> None:
    """``correct / total`` of tensors is a tensor; one that is not finite is the report's to leave out."""
    metric = evaluated(lambda boss, device: Metric("accuracy", value))  # type: ignore[arg-type]
    assert type(metric.value) is float


BAD_EVALUATIONS: list[tuple[Callable[..., object], str]] = [
    (lambda boss, device: 0.93, r"Tiny\.evaluate\(\) returned float 0\.93; expected a workloads\.Metric, as in Metric"),
    (lambda boss, device: None, r"Tiny\.evaluate\(\) returned NoneType None; expected a workloads\.Metric"),
    (lambda boss, device: ("accuracy", 0.9), r"Tiny\.evaluate\(\) returned tuple"),
    (lambda boss, device: Metric("accuracy", "high"), r"a Metric with value='high'; expected a value that is a number"),
    (lambda boss, device: Metric("accuracy", None), r"a Metric with value=None"),
    (lambda boss, device: Metric("accuracy", torch.zeros(3)), r"a Metric with value=tensor"),
    (lambda boss, device: Metric("", 0.5), r"a Metric with name=''; expected a name"),
    (lambda boss, device: Metric(7, 0.5), r"a Metric with name=7; expected a name"),
    (raises, r"Tiny\.evaluate\(\) raised KeyError: 'pixels' at .*test_workloads_validate\.py:\d+; mend it there"),
    (lambda boss, device: sys.exit(3), r"Tiny\.evaluate\(\) raised SystemExit: 3 at "),
]


@pytest.mark.parametrize(("answer", "complaint"), BAD_EVALUATIONS)
def test_an_evaluation_that_raises_or_gives_no_metric_names_class_method_and_remedy(
    answer: Callable[..., object], complaint: str
) -> None:
    """The first epoch is trained before it shows."""
    with pytest.raises(WorkloadError, match=f"^workload tiny: .*{complaint}") as caught:
        evaluated(answer)
    assert "\n" not in str(caught.value)


BAD_LATER: list[tuple[str, Callable[..., object], str]] = [
    ("batch", lambda ids: (torch.zeros(3, 3), torch.zeros(3)), r"batch\(\) of 5 IDs returned inputs of shape \(3, 3\)"),
    ("batch", lambda ids: (torch.zeros(5, 3), torch.zeros(3)), r"targets of shape \(3,\); expected 5 rows"),
    ("batch", lambda ids: torch.zeros(5, 3), r"batch\(\) of 5 IDs returned Tensor; expected two tensors"),
    ("batch", raises, r"batch\(\) of 5 IDs raised KeyError: 'pixels'"),
    ("losses", lambda o, t: o.sum(), r"losses\(\) returned shape \(\); expected shape \(5,\).*reduction='none'"),
    ("losses", lambda o, t: o[:3].sum(1), r"losses\(\) returned shape \(3,\); expected shape \(5,\)"),
    ("losses", lambda o, t: o.sum(1).tolist(), r"losses\(\) returned list"),
    ("losses", lambda o, t: o.sum(1).detach(), r"losses\(\) returned losses without gradient"),
    ("losses", raises, r"losses\(\) raised KeyError: 'pixels'"),
]


@pytest.mark.parametrize(("method", "mistake", "complaint"), BAD_LATER)
def test_a_batch_or_losses_that_go_wrong_while_training_name_class_and_method(
    method: str, mistake: Callable[..., object], complaint: str
) -> None:
    tiny = Tiny()
    setattr(tiny, method, mistake)
    checked, boss = CheckedWorkload(tiny), nn.Linear(3, 2)
    with pytest.raises(WorkloadError, match=rf"^workload tiny: Tiny\..*{complaint}"):
        inputs, targets = checked.batch(range(5))
        checked.losses(boss(inputs), targets)


def test_losses_that_are_not_finite_pass() -> None:
    """The run counts them; it does not end with them."""
    tiny = Tiny()
    tiny.losses = lambda outputs, targets: outputs.sum(1) / 0  # type: ignore[method-assign]
    assert not CheckedWorkload(tiny).losses(nn.Linear(3, 2)(torch.ones(4, 3)), torch.zeros(4)).isfinite().any()


def test_losses_without_gradients_are_no_mistake_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert len(CheckedWorkload(Tiny()).losses(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))) == 4


def test_ctrl_c_and_errors_of_the_user_s_are_not_dressed_as_mistakes_of_the_workload() -> None:
    for error in (KeyboardInterrupt(), DataError("the file is gone")):

        def fails(boss: nn.Module, device: torch.device, error: BaseException = error) -> Metric:
            raise error

        with pytest.raises(type(error)):
            evaluated(fails)


def test_a_workload_that_keeps_its_promises_is_the_same_checked() -> None:
    """Every answer of the built-in digits, through all methods of the interface."""
    digits, checked = Digits(), CheckedWorkload(Digits())
    assert checked.fingerprint() == digits.fingerprint() == Fingerprint("digits-train:b548b16661e142f9", 1442)
    assert (checked.name, checked.model, checked.data_dir) == ("digits", "", None)
    for part, expected in zip(checked.batch([5, 3]), digits.batch([5, 3]), strict=True):
        assert torch.equal(part, expected)
    assert np.array_equal(checked.features(), digits.features()) and np.array_equal(checked.labels(), digits.labels())  # type: ignore[arg-type]
    assert checked.lengths() is None and checked.lr_factor(0.3) == digits.lr_factor(0.3)
    boss = checked.boss().eval()
    assert isinstance(checked.optimizer(boss), torch.optim.SGD)
    assert checked.evaluate(boss, CPU) == digits.evaluate(boss, CPU)


def test_checking_twice_is_checking_once() -> None:
    checked = CheckedWorkload(CheckedWorkload(Digits()))
    assert type(checked.workload) is Digits


def test_no_method_of_the_interface_is_left_unchecked() -> None:
    public = {name for name, value in vars(Workload).items() if callable(value) and not name.startswith("_")}
    assert public <= vars(CheckedWorkload).keys()


def test_the_place_named_is_the_users_own_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the line of torch in which the exception was raised."""
    from workloads import load_workload

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom workloads.digits import Digits\n\n\nclass Mine(Digits):\n"
        "    def evaluate(self, boss, device):\n        return torch.nn.functional.softmax(3, dim=0)\n"
    )
    workload = CheckedWorkload(load_workload(f"{tmp_path / 'mine.py'}:Mine"))
    with pytest.raises(WorkloadError, match=rf"Mine\.evaluate\(\) raised \w+: .* at {tmp_path / 'mine.py'}:7; mend"):
        workload.evaluate(nn.Linear(1, 1), CPU)
