"""Cheap checks of a workload before a run starts: what is wrong shows in a second, not after an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from protocol.errors import UserError, WorkloadError
from workloads.base import Fingerprint, Workload

T = TypeVar("T")


def validate_workload(workload: Workload) -> None:
    """Check the shapes and types of what ``workload`` returns, on two instances and one Boss thrown away after.

    torch's random numbers are left as they were, so a validated run starts like one that was not. Costs one Boss's
    construction and forward pass on the CPU.

    Raises:
        WorkloadError: names the method, what it returned, and what is expected.
    """
    fingerprint = _call(workload, "fingerprint()", workload.fingerprint)
    if not isinstance(fingerprint, Fingerprint) or fingerprint.n < 1:
        raise _wrong(workload, "fingerprint()", repr(fingerprint), "a Fingerprint with n of at least 1")
    _check_features(workload, fingerprint.n)
    _check_labels(workload, fingerprint.n)
    _check_lengths(workload, fingerprint.n)
    _check_batch_and_losses(workload, fingerprint.n)


def _check_features(workload: Workload, n: int) -> None:
    features = _call(workload, "features()", workload.features)
    if features is None:
        return
    expected = f"a float32 array of shape ({n}, d), or None"
    if not isinstance(features, np.ndarray):
        raise _wrong(workload, "features()", type(features).__name__, expected)
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != n or features.shape[1] < 1:
        raise _wrong(workload, "features()", f"{features.dtype} of shape {features.shape}", expected)
    if not np.isfinite(features[:2]).all():
        raise _wrong(workload, "features()", "NaN or infinity in its first rows", "finite numbers")


def _check_labels(workload: Workload, n: int) -> None:
    labels = _call(workload, "labels()", workload.labels)
    if labels is None:
        return
    _check_int64_vector(workload, "labels()", labels, n)
    if labels.min() < 0:
        raise _wrong(workload, "labels()", f"a least value of {labels.min()}", "classes from 0 up")
    if labels.max() >= max(n, 2):
        raise _wrong(workload, "labels()", f"a greatest value of {labels.max()}", f"classes below n={n}")


def _check_lengths(workload: Workload, n: int) -> None:
    lengths = _call(workload, "lengths()", workload.lengths)
    if lengths is None:
        return
    _check_int64_vector(workload, "lengths()", lengths, n)
    if lengths.min() < 1:
        raise _wrong(workload, "lengths()", f"a least value of {lengths.min()}", "at least 1 token each")


def _check_int64_vector(workload: Workload, method: str, values: object, n: int) -> None:
    expected = f"an int64 array of shape ({n},), or None"
    if not isinstance(values, np.ndarray):
        raise _wrong(workload, method, type(values).__name__, expected)
    if values.dtype != np.int64 or values.shape != (n,):
        raise _wrong(workload, method, f"{values.dtype} of shape {values.shape}", expected)


def _check_batch_and_losses(workload: Workload, n: int) -> None:
    ids = [0, n - 1]
    inputs, targets = _call(workload, f"batch({ids})", lambda: _pair(workload, ids))
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.ndim < 1 or len(tensor) != 2:
            raise _wrong(workload, f"batch({ids})", f"{what} of shape {tuple(tensor.shape)}", "2 rows, one per ID")
    with torch.random.fork_rng(devices=[]):
        boss = _call(workload, "boss()", workload.boss)
        if not isinstance(boss, nn.Module):
            raise _wrong(workload, "boss()", type(boss).__name__, "a torch.nn.Module")
        boss.eval()
        outputs = _call(workload, "the Boss's forward pass", lambda: boss(inputs))
        losses = _call(workload, "losses()", lambda: workload.losses(outputs, targets))
    if not isinstance(losses, Tensor) or losses.shape != (2,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise _wrong(workload, "losses()", found, "shape (2,), one loss per instance: use reduction='none'")
    if not losses.requires_grad:
        raise _wrong(workload, "losses()", "losses without gradient", "losses that depend on the outputs: no detach()")
    if not torch.isfinite(losses).all():
        raise _wrong(workload, "losses()", f"{losses.tolist()}", "finite losses of a fresh Boss")


def _pair(workload: Workload, ids: list[int]) -> tuple[Tensor, Tensor]:
    batch = workload.batch(ids)
    if not isinstance(batch, tuple) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise _wrong(workload, f"batch({ids})", type(batch).__name__, "two tensors, inputs and targets")
    return batch


def _call(workload: Workload, method: str, function: Callable[[], T]) -> T:
    try:
        return function()
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise WorkloadError(f"workload {workload.name}: {method} raised {type(error).__name__}: {text}") from error


def _wrong(workload: Workload, method: str, found: str, expected: str) -> WorkloadError:
    return WorkloadError(f"workload {workload.name}: {method} returned {found}; expected {expected}")
