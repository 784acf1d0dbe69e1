"""Losses known afresh, by instance: found by looking ahead, and of use until the instance is trained again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import RunningMean
from protocol.arrays import F32, I64

LEAST_MEAN = 1e-12


class FreshLoss(NamedTuple):
    """Of some instances; both of shape ``(k,)``."""

    relative: F32
    """Loss over the mean of all that were looked at about then; 0 for none."""
    age_reports: NDArray[np.int32]
    """Reports since it was looked at; -1 for none."""


class FreshLosses:
    """A row for each instance, 8 bytes, in memory. It is measured, not learned: a restart begins without."""

    def __init__(self, n: int) -> None:
        # Loss, and the bits of the whole number 1 + reports heard before it: zeros know nothing, and rows that were
        # never written cost no memory.
        self._rows: F32 = np.zeros((n, 2), dtype=np.float32)
        self._reports = 0
        self.mean = RunningMean()
        """Of what is looked at, trained or not: so the unit of what is noted."""

    def note(self, ids: I64, losses: F32) -> None:
        """Take in finite losses of different instances."""
        self.mean.add(losses, np.ones_like(losses))
        if self.mean.value <= LEAST_MEAN:
            return
        rows = np.empty((len(ids), 2), dtype=np.float32)
        rows[:, 0] = losses / np.float32(self.mean.value)
        rows.view(np.int32)[:, 1] = self._reports + 1
        self._rows[ids] = rows

    def forget(self, ids: I64) -> None:
        """These have been trained, and are no longer what they were."""
        self._reports += 1
        self._rows[ids] = 0.0

    def look_up(self, ids: I64) -> FreshLoss:
        """What is known of these."""
        rows = self._rows.take(ids, axis=0)
        noted = rows.view(np.int32)[:, 1]
        return FreshLoss(rows[:, 0], np.where(noted > 0, self._reports + 1 - noted, -1).astype(np.int32))
