"""A workload that keeps its promises, or says at once which one it breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocol.finite import rows_not_finite
from protocol.sparse import Features, SparseRows
from workloads.base import FallBack, Fingerprint, Metric, Workload
from workloads.mistakes import blaming, method_of, wrong

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class CheckedWorkload(Workload):
    """Another workload, with every answer checked against the interface, however late in a run it comes.

    Each method raises WorkloadError, naming the class and the method, where the other one's raises or returns something
    else than `Workload` says. Costs a microsecond or two a call, and what ``labels`` and ``lengths`` take to be looked
    through once.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(model=workload.model, data_dir=workload.data_dir)
        self.workload: Workload = workload.workload if isinstance(workload, CheckedWorkload) else workload
        self.name = workload.name

    def fingerprint(self) -> Fingerprint:
        """A Fingerprint of at least one instance."""
        what = method_of(self.workload, "fingerprint()")
        with blaming(self.workload, what):
            found: object = self.workload.fingerprint()
        if not isinstance(found, Fingerprint) or found.n < 1:
            raise wrong(self.workload, what, repr(found), "a Fingerprint with n of at least 1")
        return found

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Two tensors with a row for each ID."""
        from torch import Tensor

        what = method_of(self.workload, f"batch({list(ids)})" if len(ids) < 4 else f"batch() of {len(ids)} IDs")
        with blaming(self.workload, what):
            found: object = self.workload.batch(ids)
        if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
            raise wrong(self.workload, what, type(found).__name__, "two tensors, inputs and targets")
        for name, tensor in zip(("inputs", "targets"), found, strict=True):
            if tensor.ndim < 1 or len(tensor) != len(ids):
                shape = f"{name} of shape {tuple(tensor.shape)}"
                raise wrong(self.workload, what, shape, f"{len(ids)} rows, one per ID")
        inputs, targets = found
        return inputs, targets

    def boss(self) -> nn.Module:
        """A torch module."""
        from torch import nn

        what = method_of(self.workload, "boss()")
        with blaming(self.workload, what):
            found: object = self.workload.boss()
        if not isinstance(found, nn.Module):
            raise wrong(self.workload, what, type(found).__name__, "a torch.nn.Module")
        return found

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss per target, with gradient; they may be NaN or infinite, which is the run's to count."""
        from torch import Tensor, is_grad_enabled

        what = method_of(self.workload, "losses()")
        with blaming(self.workload, what):
            found: object = self.workload.losses(outputs, targets)
        expected = f"shape ({len(targets)},), one loss per instance: use reduction='none'"
        if not isinstance(found, Tensor):
            raise wrong(self.workload, what, type(found).__name__, expected)
        if found.shape != (len(targets),):
            raise wrong(self.workload, what, f"shape {tuple(found.shape)}", expected)
        if is_grad_enabled() and not found.requires_grad:
            raise wrong(
                self.workload, what, "losses without gradient", "losses that depend on the outputs: no detach()"
            )
        return found

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """A Metric whose value is a number; it may be NaN or infinite."""
        what = method_of(self.workload, "evaluate()")
        with blaming(self.workload, what):
            found: object = self.workload.evaluate(boss, device)
        expected = "a workloads.Metric, as in Metric('test_accuracy', 0.93)"
        if not isinstance(found, Metric):
            raise wrong(self.workload, what, f"{type(found).__name__} {found!r}"[:100], expected)
        if not isinstance(found.name, str) or not found.name:
            raise wrong(self.workload, what, f"a Metric with name={found.name!r}", "a name of at least one character")
        value = _number(found.value)
        if value is None:
            raise wrong(self.workload, what, f"a Metric with value={found.value!r}"[:100], "a value that is a number")
        return Metric(found.name, value, found.higher_is_better)

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """A torch optimizer."""
        from torch.optim import Optimizer

        what = method_of(self.workload, "optimizer()")
        with blaming(self.workload, what):
            found: object = self.workload.optimizer(boss)
        if not isinstance(found, Optimizer):
            raise wrong(self.workload, what, type(found).__name__, "a torch.optim.Optimizer over the Boss's parameters")
        return found

    def lr_factor(self, progress: float) -> float:
        """A finite number that is not negative."""
        what = method_of(self.workload, f"lr_factor({progress:.3g})")
        with blaming(self.workload, what):
            found: object = self.workload.lr_factor(progress)
        factor = _number(found)
        if factor is None or not math.isfinite(factor) or factor < 0:
            raise wrong(self.workload, what, repr(found)[:100], "a finite number of at least 0")
        return factor

    @property
    def fall_back(self) -> FallBack | None:
        """A FallBack or None."""
        what = method_of(self.workload, "fall_back")
        with blaming(self.workload, what):
            found: object = self.workload.fall_back
        if found is not None and not isinstance(found, FallBack):
            raise wrong(self.workload, what, repr(found)[:100], "a workloads.base.FallBack, or None")
        return found

    def features(self) -> Features | None:
        """A float32 matrix, dense or sparse, a row for each instance, or None; all of it is read, all of it finite."""
        what, n = method_of(self.workload, "features()"), self.fingerprint().n
        with blaming(self.workload, what):
            found: object = self.workload.features()
        if found is None:
            return None
        expected = f"a float32 array of shape ({n}, d), or None"
        if isinstance(found, SparseRows):
            return self._finite(what, found, n, expected)
        if not isinstance(found, np.ndarray):
            raise wrong(self.workload, what, type(found).__name__, expected)
        if found.dtype != np.float32 or found.ndim != 2 or len(found) != n or found.shape[1] < 1:
            raise wrong(self.workload, what, f"{found.dtype} of shape {found.shape}", expected)
        bad, first = rows_not_finite(found)
        if bad:
            what_is_wrong = f"NaN or infinity in {bad} of {n} rows, the first of instance {first}"
            raise wrong(self.workload, what, what_is_wrong, "finite numbers; fill them in, or leave the column out")
        return found

    def _finite(self, what: str, found: SparseRows, n: int, expected: str) -> SparseRows:
        if len(found) != n or found.values.dtype != np.float32:
            raise wrong(self.workload, what, f"{found.values.dtype} of shape {found.shape}", expected)
        bad, first = rows_not_finite(found.values)
        if bad:
            row = int(np.searchsorted(found.begins, first, side="right")) - 1
            raise wrong(self.workload, what, f"NaN or infinity in row {row}", "finite numbers")
        return found

    def labels(self) -> NDArray[np.int64] | None:
        """A class for each instance, or None."""
        what, n = method_of(self.workload, "labels()"), self.fingerprint().n
        with blaming(self.workload, what):
            found: object = self.workload.labels()
        labels = self._int64_vector(what, found, n)
        if labels is not None and labels.min() < 0:
            raise wrong(self.workload, what, f"a least value of {labels.min()}", "classes from 0 up")
        if labels is not None and labels.max() >= max(n, 2):
            raise wrong(self.workload, what, f"a greatest value of {labels.max()}", f"classes below n={n}")
        return labels

    def preview(self, instance_id: int) -> NDArray[np.uint8] | str | None:
        """As it is: whoever shows it looks at it, and goes on without it."""
        return self.workload.preview(instance_id)

    def lengths(self) -> NDArray[np.int64] | None:
        """A length for each instance, or None."""
        what, n = method_of(self.workload, "lengths()"), self.fingerprint().n
        with blaming(self.workload, what):
            found: object = self.workload.lengths()
        lengths = self._int64_vector(what, found, n)
        if lengths is not None and lengths.min() < 1:
            raise wrong(self.workload, what, f"a least value of {lengths.min()}", "at least 1 token each")
        return lengths

    def token_counts(self, targets: Tensor) -> Tensor | None:
        """A number of tokens for each target, or None."""
        from torch import Tensor

        what = method_of(self.workload, "token_counts()")
        with blaming(self.workload, what):
            found: object = self.workload.token_counts(targets)
        if found is None:
            return None
        if not isinstance(found, Tensor) or found.shape != (len(targets),):
            given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise wrong(self.workload, what, given, f"a tensor of shape ({len(targets)},), or None")
        return found

    def _int64_vector(self, what: str, values: object, n: int) -> NDArray[np.int64] | None:
        if values is None:
            return None
        expected = f"an int64 array of shape ({n},), or None"
        if not isinstance(values, np.ndarray):
            raise wrong(self.workload, what, type(values).__name__, expected)
        if values.dtype != np.int64 or values.shape != (n,):
            raise wrong(self.workload, what, f"{values.dtype} of shape {values.shape}", expected)
        return values


def _number(value: Any) -> float | None:
    """A number of any library, a tensor of one element too, as a float; None for what is none."""
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
