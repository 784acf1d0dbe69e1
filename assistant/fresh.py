"""Losses known afresh, by instance: found by looking ahead, and of use until the instance is trained again."""

from __future__ import annotations

import numpy as np

from assistant.estimates import RunningMean
from protocol.arrays import F32, I64

LEAST_MEAN = 1e-12
LEAST = np.float32(1e-6)
"""A relative loss of less counts as this; 0 says that none is known."""


class FreshLosses:
    """A number for each instance, 4 bytes, in memory. It is measured, not learned: a restart begins without."""

    def __init__(self, n: int) -> None:
        self._relative: F32 = np.zeros(n, dtype=np.float32)  # what was never written costs no memory
        self.mean = RunningMean()
        """Of what is looked at, trained or not: the unit of what is noted."""

    def note(self, ids: I64, losses: F32) -> None:
        """Take in finite losses, shape ``(k,)`` both; of no use while they are zero or negative in the mean."""
        self.mean.add(losses, np.ones_like(losses))
        if self.mean.value > LEAST_MEAN:
            self._relative[ids] = np.maximum(losses / np.float32(self.mean.value), LEAST)

    def forget(self, ids: I64) -> None:
        """These have been trained, and are no longer what they were."""
        self._relative[ids] = 0.0

    def look_up(self, ids: I64) -> F32:
        """Loss over the mean of all that were looked at about then, shape ``(k,)``; 0 where none is known."""
        found: F32 = self._relative.take(ids)
        return found
