"""Columns of features with numbers so large that float32 cannot hold their squares: each is divided by its largest.

The Assistant's models add up squares of gradients, and products of columns where it condenses them. Features are
nowhere copied for it: the rows that are fetched are scaled. Of other columns nothing changes, to the bit.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32, I64
from protocol.sparse import Features, SparseRows

log = logging.getLogger("autoassist.assistant")

LARGEST = 1e12
"""Its square, times a row's length and as many reports as a run may have, is still far from float32's 3·10^38."""
MOST_VALUES = 1 << 29
"""Of more, a sample of the rows speaks for all: a file that is mapped shall not be read through at the start."""
SAMPLE = 4096
CHUNK_VALUES = 1 << 16
"""Looked at together; they stay in the processor's cache for the second look."""


def column_scales(features: Features) -> F32 | None:
    """Factor of each column, shape ``(d,)``; None where no number that is looked at exceeds 10^12."""
    values = features.values if isinstance(features, SparseRows) else _looked_at(np.asarray(features))
    if all(chunk.max() <= LARGEST and chunk.min() >= -LARGEST for chunk in _chunks(values)):
        return None
    greatest = np.zeros(features.shape[1], dtype=np.float32)
    if isinstance(features, SparseRows):
        np.maximum.at(greatest, features.columns, np.abs(values))
    else:
        for chunk in _chunks(values):
            np.maximum(greatest, np.abs(chunk).max(axis=0), out=greatest)
    large = greatest > LARGEST
    scales = np.ones_like(greatest)
    scales[large] = 1.0 / greatest[large]
    what = "features: %d of %d columns hold numbers above %g and are divided by their largest, column %d by %g"
    first = int(large.argmax())
    log.info(what, np.count_nonzero(large), len(large), LARGEST, first, greatest[first])
    return scales


def _looked_at(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """All of them, or some."""
    if rows.size <= MOST_VALUES:
        return rows
    return sample_of(rows)


def sample_of(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most 4,096 rows, evenly spread; a copy."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.intp))]


def rows_of(features: Features, ids: I64, scales: F32 | None) -> Features:
    """The features of some instances, scaled where there is a scale."""
    if isinstance(features, SparseRows):
        rows = features[ids]
        return rows if scales is None else dataclasses.replace(rows, values=rows.values * scales[rows.columns])
    found: F32 = features.take(ids, axis=0)
    if scales is not None:
        found *= scales
    return found


def _chunks(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    step = max(1, CHUNK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    return (values[start : start + step] for start in range(0, len(values), step))
