"""What a script gives its Assistants of the instances, looked at before anything is started."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32, I64
from protocol.errors import SettingError
from protocol.finite import rows_not_finite
from protocol.settings import require


def rows_of(dataset: Sized) -> int:
    """Its instances; raises SettingError where they cannot be told by number, or there are none."""
    from boss.joining import size_of  # here: an Assistant that is given arrays does without torch

    n = size_of(dataset)
    require(n > 0, "dataset", f"a {type(dataset).__name__} of no instances", "give one with some")
    return n


def as_features(given: Any, n: int) -> F32 | None:
    """As float32; raises SettingError unless its shape is (n, d) and all of it is finite."""
    if given is None:
        return None
    found = _numbers("features", given)
    require(found.ndim == 2 and len(found) == n, "features", _kind(found), f"give numbers of shape ({n}, d)")
    features: F32 = found.astype(np.float32, copy=False)
    bad, first = rows_not_finite(features)
    remedy = "fill them in, or leave the column out"
    require(not bad, "features", f"{bad} rows with NaN or infinity, the first of instance {first}", remedy)
    return features


def as_labels(given: Any, n: int) -> I64 | None:
    """As int64; raises SettingError unless they are n whole numbers from 0 up."""
    if given is None:
        return None
    found = _numbers("labels", given)
    is_whole = found.ndim == 1 and len(found) == n and found.dtype.kind in "iu"
    require(is_whole, "labels", _kind(found), f"give {n} whole numbers, a class for each instance")
    labels: I64 = found.astype(np.int64)
    require_classes(labels, "labels")
    return labels


def require_classes(labels: I64, name: str) -> None:
    """Raise SettingError where a label is no class."""
    least, greatest, n = int(labels.min(initial=0)), int(labels.max(initial=0)), len(labels)
    require(least >= 0, name, f"a least value of {least}", "give classes from 0 up; what has none, a class of its own")
    remedy = f"give classes below the number of instances, {n}; other numbers may be told apart by np.unique"
    require(greatest < max(n, 2), name, f"a greatest value of {greatest}", remedy)


def _numbers(name: str, given: Any) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; torch's, on a device for one
        raise SettingError(f"{name}=a {type(given).__name__}: {error}; give a plain array of numbers") from None
    require(found.dtype.kind in "biuf", name, _kind(found), "give numbers")
    return found


def _kind(found: NDArray[Any]) -> str:
    return f"{found.dtype} of shape {found.shape}"
