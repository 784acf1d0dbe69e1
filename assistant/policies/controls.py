"""The two policies that know nothing: what any selection is measured against."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from assistant.policies.base import Given, Moment, Policy
from protocol.arrays import F32, I64
from protocol.messages import LossRecord


class Uniform(Policy):
    """Everything passes: the full epoch."""

    wants_gate: ClassVar[bool] = False
    wants_noise_guard: ClassVar[bool] = False

    def observe(self, record: LossRecord) -> None:
        """Nothing to learn."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """π = 1."""
        del moment
        return np.ones(len(ids), dtype=np.float32)


class RandomDrop(Policy):
    """The control that any selection must beat: the same π for all, redrawn in each epoch.

    Published selectors were found to be no better under equal budgets: Okanovic et al., "Repeated Random Sampling for
    Minimizing the Time-to-Accuracy of Learning", ICLR 2024; Kaddour et al., "No Train No Gain", NeurIPS 2023. It has
    no floor of its own, so that it can meet any rate.
    """

    default_floor: ClassVar[float] = 0.0
    wants_gate: ClassVar[bool] = False
    wants_noise_guard: ClassVar[bool] = False

    def __init__(self, drop_rate: float) -> None:
        self.drop_rate = drop_rate

    @classmethod
    def make(cls, given: Given) -> RandomDrop:
        """With the run's drop rate."""
        return cls(given.settings.drop_rate)

    def observe(self, record: LossRecord) -> None:
        """Nothing to learn."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """π = 1 - drop_rate."""
        del moment
        return np.full(len(ids), 1.0 - self.drop_rate, dtype=np.float32)
