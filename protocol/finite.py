"""Looking for numbers that are not finite in an array that may be larger than memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_VALUES = 1 << 20
"""How many numbers are looked at together: 1 MiB beside the array."""


def rows_not_finite(array: NDArray[Any]) -> tuple[int, int]:
    """How many rows hold NaN or infinity, and the first of them; ``(0, -1)`` where all is finite.

    A memory map is read once, chunk by chunk, so memory stays flat; a second for some GB that are in the page cache.
    """
    count, first = 0, -1
    step = max(1, CHUNK_VALUES // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), step):
        rows = array[start : start + step]
        bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
        if len(bad) and first < 0:
            first = start + int(bad[0])
        count += len(bad)
    return count, first
