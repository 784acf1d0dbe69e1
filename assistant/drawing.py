"""The seeded drawing: the same window draws the same random numbers, whoever scores it and however often."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32

DRAWING_STREAM = 1
"""Keeps these numbers apart from those of the epoch order, which use the same seed."""


class Drawing:
    """That of one run; its generator is made once, since making one takes as long as half a window's numbers."""

    def __init__(self, seed: int) -> None:
        self._philox = np.random.Philox(key=[seed, 0], counter=[0, 0, 0, DRAWING_STREAM])
        self._rng = np.random.Generator(self._philox)
        self._start = self._philox.state
        self._key = self._start["state"]["key"]

    def __call__(self, window: int, keep_probabilities: F32) -> NDArray[np.bool_]:
        """See ``draw``."""
        self._key[1] = window
        self._philox.state = self._start
        return self._rng.random(len(keep_probabilities), dtype=np.float32) < keep_probabilities


def draw(seed: int, window: int, keep_probabilities: F32) -> NDArray[np.bool_]:
    """Which candidates of a window are kept, shape ``(k,)``: u < π with u from Philox keyed by (seed, window).

    A window's number is unique in the run, so it stands for the epoch too.
    """
    return Drawing(seed)(window, keep_probabilities)
