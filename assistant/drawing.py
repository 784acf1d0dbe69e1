"""The seeded drawing: the same window draws the same random numbers, whoever scores it and however often."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32

DRAWING_STREAM = 1
"""Keeps these numbers apart from those of the epoch order, which use the same seed."""


def draw(seed: int, window: int, keep_probabilities: F32) -> NDArray[np.bool_]:
    """Which candidates of a window are kept, shape ``(k,)``: u < π with u from Philox keyed by (seed, window).

    A window's number is unique in the run, so it stands for the epoch too.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, window], counter=[0, 0, 0, DRAWING_STREAM]))
    return rng.random(len(keep_probabilities), dtype=np.float32) < keep_probabilities
