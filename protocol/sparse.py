"""Features of instances, by ID: dense, or sparse where most of a row is zero, as with words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32, I64


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A float32 matrix of shape ``(n, width)``, compressed by rows (CSR); all arrays may be memory maps.

    It can what a linear model asks of it and no more; scipy would cost an Assistant 22 MB. ``rows[ids]`` is a matrix
    again, ``rows @ w`` and ``r @ rows`` are vectors. None of them has a loop over rows.
    """

    values: F32
    """What is not zero, row by row."""
    columns: NDArray[np.int32]
    """Column of each value."""
    begins: I64
    """Where each row begins among the values, and last the end; shape ``(n + 1,)``."""
    width: int
    """Number of columns."""

    __array_ufunc__ = None  # numpy leaves ``r @ rows`` to __rmatmul__

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, width)``."""
        return len(self), self.width

    def __len__(self) -> int:
        return len(self.begins) - 1

    def __getitem__(self, ids: I64) -> SparseRows:
        counts = self.begins[ids + 1] - self.begins[ids]
        begins = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(counts, out=begins[1:])
        places = np.arange(begins[-1]) + np.repeat(self.begins[ids] - begins[:-1], counts)
        return SparseRows(self.values[places], self.columns[places], begins, self.width)

    def __matmul__(self, weights: F32) -> F32:
        products = self.values * weights[self.columns]
        return np.bincount(self._rows, weights=products, minlength=len(self)).astype(np.float32)

    def __rmatmul__(self, factors: NDArray[np.floating]) -> F32:
        products = self.values * factors[self._rows]
        return np.bincount(self.columns, weights=products, minlength=self.width).astype(np.float32)

    @cached_property
    def _rows(self) -> I64:
        """Row of each value."""
        return np.repeat(np.arange(len(self)), np.diff(self.begins))


Features = F32 | SparseRows
"""A row for each instance."""


def values_a_row(features: Features) -> float:
    """How many values of a row are not zero, on average; of a dense one all."""
    if isinstance(features, SparseRows):
        return len(features.values) / max(1, len(features))
    return float(features.shape[1])
