"""Our default: keep by the loss that an instance is predicted to have now."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from assistant.classifier import LOSS_FEATURES, OwnClassifier
from assistant.estimates import Lift, RunningMean, RunningQuantile, State, Stateful, gather, scatter
from assistant.instances import InstanceStore
from assistant.learned import LogisticModel
from assistant.loss_model import LossModel
from assistant.policies.base import CLEARLY, Given, Moment, Policy
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.sparse import Features

THRESHOLD_QUANTILE = 0.7
SEEN_COLUMNS = 5
UNSEEN_COLUMNS = 2
CLASSIFIER_COLUMNS = 2
LEAST, MOST = 1e-3, 20.0
"""Range of a relative loss before its logarithm is taken."""
LEAST_MEAN = 1e-12
MOST_RELATIVE = 1e6
"""So that no finite loss makes an infinite average."""
EASY = 0.25
"""Scale of the squares, so that all columns are of the same order."""


class AutoAssist(Policy):
    """Our default: π_i = clip(E[loss_i] / T̄, γ, 1), T̄ the running mean of the unbiased stream.

    The expectation is a regression's (``LossModel``), fitted on every report before its losses are known to it, on what
    the Assistant knows of each instance. Of one that has been trained: its last loss and the average of its losses,
    each in units of T̄ **at the time**, for losses fall while it waits, and the epochs since then. Of one that has not:
    q_i of the learned model, z_i = 1[loss_i > T], T the 0.7 quantile of the unbiased stream, and, where there are
    features and labels, its loss under a classifier of the Assistant's own. While the lift of the whole is not clearly
    positive nothing is shrunk.

    Ours, on top of Zhang, Yu, Dhillon (NeurIPS 2019), section 4.1, whose logistic model and z_i the learned model has;
    the soft proportional rule and γ = 0.1 are from the prototype's measurements (docs/RESULTS.md).
    """

    wants_gate: ClassVar[bool] = False

    def __init__(
        self,
        n: int,
        *,
        floor: float,
        features: Features | None = None,
        labels: NDArray[np.int64] | None = None,
        gate: bool = True,
    ) -> None:
        self.floor = floor
        self.gate = gate
        self.instances = InstanceStore(n)
        """Losses in units of T̄ when they were reported."""
        self.classifier = OwnClassifier.where_possible(features, labels)
        is_told = features is not None or labels is not None
        self.learned = (
            LogisticModel(features, labels, LOSS_FEATURES if self.classifier is not None else 0) if is_told else None
        )
        classifier_columns = CLASSIFIER_COLUMNS if self.classifier is not None else 0
        self.model = LossModel(SEEN_COLUMNS + UNSEEN_COLUMNS + classifier_columns)
        self.mean = RunningMean()
        self.threshold = RunningQuantile(THRESHOLD_QUANTILE)
        self.own_lift = Lift()

    @classmethod
    def make(cls, given: Given) -> AutoAssist:
        """With all that there is to know of the instances."""
        gate = given.settings.gate
        return cls(given.n, floor=given.floor, features=given.features, labels=given.labels, gate=gate)

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "instances": self.instances,
            "model": self.model,
            "mean": self.mean,
            "threshold": self.threshold,
            "lift": self.own_lift,
        }
        if self.learned is not None:
            parts["learned"] = self.learned
        if self.classifier is not None:
            parts["classifier"] = self.classifier
        return parts

    def state_dict(self) -> State:
        """Every part's state."""
        return gather(self._parts())

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        scatter(self._parts(), state)

    @property
    def version(self) -> int:
        """Updates of the regression."""
        return self.model.updates

    @property
    def lift(self) -> tuple[float, float]:
        """Of what it would keep, judged on every report before it has learned from it."""
        value, error = self.own_lift.value_and_error
        return value, error if np.isfinite(error) else 0.0

    def observe(self, record: LossRecord) -> None:
        """Judge the prediction on the record, then learn from it."""
        ids, losses, weights = record.ids, record.losses, 1.0 / record.keep_probabilities
        told = self._told(ids)
        known = self._known(ids, record.epoch, told)
        if self._has_scale:
            self.own_lift.add(self._clipped(self.model.predict(known)), losses, weights)
            self.model.learn(known, self._relative(losses), weights)
        self.mean.add(losses, weights)
        self.threshold.add(losses, weights)
        if self.learned is not None:
            self.learned.learn(ids, told, (losses > self.threshold.value).astype(np.float32), weights)
        if self.classifier is not None:
            self.classifier.learn(ids, weights)
        self.instances.record(ids, self._relative(losses), record.epoch)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        if not self._has_scale or (self.gate and not self.own_lift.is_clearly_positive(CLEARLY)):
            return np.ones(len(ids), dtype=np.float32)
        return self._clipped(self.model.predict(self._known(ids, moment.epoch)))

    def _clipped(self, values: F32) -> F32:
        clipped: F32 = np.clip(values, self.floor, 1.0).astype(np.float32)
        return clipped

    @property
    def _has_scale(self) -> bool:
        """Whether there is a mean to compare with; losses that are zero or negative in the mean have none."""
        return self.mean.value > LEAST_MEAN

    def _relative(self, losses: F32) -> F32:
        if not self._has_scale:
            return np.ones_like(losses)
        relative = losses.astype(np.float64) / self.mean.value
        return np.clip(relative, -MOST_RELATIVE, MOST_RELATIVE).astype(np.float32)

    def _told(self, ids: I64) -> F32:
        """What the Assistant's own classifier makes of each: log(1 + loss) and the probability missed, shape (k, 2), or
        (k, 0) without one."""
        if self.classifier is None:
            return np.zeros((len(ids), 0), dtype=np.float32)
        return self.classifier.loss_features(ids)

    def _known(self, ids: I64, epoch: int, told: F32 | None = None) -> F32:
        """The regression's columns, shape (k, 7 or 9): five of what has been seen, the others of what has not; 0 where
        they do not apply. ``told`` of all of ``ids`` where it is there already."""
        is_seen = self.instances.seen[ids] > 0
        known = np.zeros((len(ids), len(self.model.coefficients)), dtype=np.float32)
        known[is_seen, :SEEN_COLUMNS] = self._seen(ids[is_seen], epoch)
        if not is_seen.all():
            unseen = ids[~is_seen]
            known[~is_seen, SEEN_COLUMNS:] = self._unseen(
                unseen, self._told(unseen) if told is None else told[~is_seen]
            )
        return known

    def _seen(self, ids: I64, epoch: int) -> F32:
        last, mean = _logarithm(self.instances.last_loss[ids]), _logarithm(self.instances.mean_loss[ids])
        age = np.log1p(np.maximum(0, epoch - self.instances.last_epoch[ids]))
        return np.stack([np.ones_like(last), last, mean, _easiness(mean), age], axis=1)

    def _unseen(self, ids: I64, told: F32) -> F32:
        columns = [np.ones(len(ids), dtype=np.float32), self._learned(ids, told)]
        if self.classifier is not None:
            own = _logarithm(np.expm1(told[:, 0]))
            columns += [own, _easiness(own + 1.0)]
        return np.stack(columns, axis=1)

    def _learned(self, ids: I64, told: F32) -> F32:
        """Logarithm of q_i in units of its mean."""
        if self.learned is None:
            return np.zeros(len(ids), dtype=np.float32)
        return _logarithm(self.learned.predict(ids, told) / np.float32(1.0 - THRESHOLD_QUANTILE))


def _logarithm(relative: F32) -> F32:
    logarithm: F32 = np.log(np.clip(relative, LEAST, MOST))
    return logarithm


def _easiness(logarithm: F32) -> F32:
    """How far it lies below the mean, squared: the loss of what is easy falls no further."""
    easiness: F32 = np.float32(EASY) * np.minimum(logarithm, np.float32(0.0)) ** 2
    return easiness
