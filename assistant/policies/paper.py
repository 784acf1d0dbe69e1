"""The authors' rule, as published."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import RunningMean, State, gather, scatter
from assistant.learned import PaperModel
from assistant.policies.base import Given, Moment, Policy
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.sparse import Features

THRESHOLD_DECAY = 0.75
"""Of T, per report; the authors' code for images."""
ACCURACY_DECAY = 0.95
"""Of c, per report; the authors' code for translation."""


class AutoAssistPaper(Policy):
    """π_i = γ_t + (1 - γ_t)·σ(w·x_i + u[y_i]): Zhang, Yu, Dhillon, NeurIPS 2019 (arXiv 1905.03381), section 4.

    z_i = 1[loss_i > T], T the running mean of the Boss's losses, unweighted; γ_t = max(γ, 1 - c) with c the running
    accuracy of the model, so that nothing is shrunk before it knows anything. The paper has that for translation; with
    γ = 0.3 it changes nothing on images, where c is above 0.7 from the beginning on. γ is 0.3 here, 0.5 for translation
    in the authors' code (``--floor 0.5``). Under the gate, like every policy; the bare rule is ``--no-gate``, and
    wholly the authors' for images with ``--anneal-share 0`` too.
    """

    default_floor: ClassVar[float] = 0.3
    wants_noise_guard: ClassVar[bool] = False

    def __init__(
        self,
        *,
        floor: float,
        features: Features | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.floor = floor
        self.model = PaperModel(features, labels)
        self.mean = RunningMean(THRESHOLD_DECAY)
        self.accuracy = 0.0

    @classmethod
    def make(cls, given: Given) -> AutoAssistPaper:
        """With the features and labels of the workload."""
        return cls(floor=given.floor, features=given.features, labels=given.labels)

    def state_dict(self) -> State:
        """Model, threshold and accuracy."""
        return {**gather({"model": self.model, "mean": self.mean}), "accuracy": np.array([self.accuracy])}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        scatter({"model": self.model, "mean": self.mean}, state)
        self.accuracy = float(state["accuracy"][0])

    @property
    def version(self) -> int:
        """Updates of the model."""
        return self.model.updates

    def observe(self, record: LossRecord) -> None:
        """Move the threshold, then the model, then its accuracy."""
        self.mean.add(record.losses, np.ones_like(record.losses))
        targets = (record.losses > self.mean.value).astype(np.float32)
        accuracy = self.model.learn(record.ids, targets)
        self.accuracy = ACCURACY_DECAY * self.accuracy + (1.0 - ACCURACY_DECAY) * accuracy

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        del moment
        floor = max(self.floor, 1.0 - self.accuracy)
        keep: F32 = (floor + (1.0 - floor) * self.model.predict(ids)).astype(np.float32)
        return keep
