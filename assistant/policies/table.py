"""Our default: the soft loss table, with a learned model where the table is silent."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from assistant.classifier import LOSS_FEATURES, OwnClassifier
from assistant.estimates import Lift, RunningMean, RunningQuantile, State, Stateful, gather, scatter
from assistant.instances import InstanceStore
from assistant.learned import HISTORY_FEATURES, LogisticModel
from assistant.policies.base import CLEARLY, Given, Moment, Policy
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.sparse import Features

RECENT_EPOCHS = 5
THRESHOLD_QUANTILE = 0.7


class AutoAssist(Policy):
    """Our default: the soft loss table where an instance has a recent loss, the learned model where it has none.

    Table: π_i = clip(mean loss of i / T̄, γ, 1) with T̄ the running mean of the unbiased stream. Learned: π_i =
    clip(q_i / P(z = 1), γ, 1), so that an average instance passes, as in the table; z_i = 1[loss_i > T], T the 0.7
    quantile of the unbiased stream. Each of the two has a lift of its own, judged on every report before it is learned
    from; one that is not clearly positive shrinks nothing.

    Ours: the learned model is Zhang, Yu, Dhillon (NeurIPS 2019), section 4.1, with loss-history features and, where
    there are features and labels, the losses of a classifier of the Assistant's own; the table and its constants are
    from the prototype's measurements (docs/RESULTS.md).
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
        self.classifier = OwnClassifier.where_possible(features, labels)
        known = HISTORY_FEATURES + (LOSS_FEATURES if self.classifier is not None else 0)
        self.model = LogisticModel(features, labels, known)
        self.mean = RunningMean()
        self.threshold = RunningQuantile(THRESHOLD_QUANTILE)
        self.table_lift = Lift()
        self.learned_lift = Lift()
        self._parts: dict[str, Stateful] = {
            "instances": self.instances,
            "model": self.model,
            "mean": self.mean,
            "threshold": self.threshold,
            "table_lift": self.table_lift,
            "learned_lift": self.learned_lift,
        }
        if self.classifier is not None:
            self._parts["classifier"] = self.classifier

    @classmethod
    def make(cls, given: Given) -> AutoAssist:
        """With all that there is to know of the instances."""
        gate = given.settings.gate
        return cls(given.n, floor=given.floor, features=given.features, labels=given.labels, gate=gate)

    def state_dict(self) -> State:
        """Every part's state."""
        return gather(self._parts)

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        scatter(self._parts, state)

    @property
    def version(self) -> int:
        """Updates of the learned model."""
        return self.model.updates

    @property
    def lift(self) -> tuple[float, float]:
        """Of the table once it has one, of the learned model before."""
        value, error = self.table_lift.value_and_error
        if not np.isfinite(error):
            value, error = self.learned_lift.value_and_error
        return value, error if np.isfinite(error) else 0.0

    def observe(self, record: LossRecord) -> None:
        """Judge both rules on the record, then learn from it."""
        ids, losses, weights = record.ids, record.losses, 1.0 / record.keep_probabilities
        recent = self.instances.has_recent(ids, record.epoch, RECENT_EPOCHS)
        history = self._history(ids, record.epoch)
        if np.isfinite(self.mean.value):
            table, learned = self._table(ids), self._learned(ids, history)
            self.table_lift.add(table[recent], losses[recent], weights[recent])
            silent = ~recent
            self.learned_lift.add(learned[silent], losses[silent], weights[silent])
        self.mean.add(losses, weights)
        self.threshold.add(losses, weights)
        targets = (losses > self.threshold.value).astype(np.float32)
        self.model.learn(ids, history, targets, weights)
        if self.classifier is not None:
            self.classifier.learn(ids, weights)
        self.instances.record(ids, losses, record.epoch)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        keep = np.ones(len(ids), dtype=np.float32)
        if not np.isfinite(self.mean.value):
            return keep
        recent = self.instances.has_recent(ids, moment.epoch, RECENT_EPOCHS)
        if self._may_shrink(self.table_lift):
            keep[recent] = self._table(ids[recent])
        silent = ~recent
        if silent.any() and self._may_shrink(self.learned_lift):
            keep[silent] = self._learned(ids[silent], self._history(ids[silent], moment.epoch))
        return keep

    def _may_shrink(self, lift: Lift) -> bool:
        return not self.gate or lift.is_clearly_positive(CLEARLY)

    def _table(self, ids: I64) -> F32:
        ratio = self.instances.mean_loss[ids] / max(self.mean.value, 1e-12)
        return self._clipped(ratio)

    def _learned(self, ids: I64, history: F32) -> F32:
        scaled = self.model.predict(ids, history) / (1.0 - THRESHOLD_QUANTILE)
        return self._clipped(scaled)

    def _clipped(self, values: F32) -> F32:
        clipped: F32 = np.clip(values, self.floor, 1.0).astype(np.float32)
        return clipped

    def _history(self, ids: I64, epoch: int) -> F32:
        """What is known beside x and y: was it seen, its mean loss in units of T̄ on a log scale, epochs since its last
        loss; then what the Assistant's own classifier makes of it. Shape (k, 3) or (k, 5)."""
        seen = self.instances.seen[ids] > 0
        history = np.zeros((len(ids), len(self.model.v)), dtype=np.float32)
        history[:, 0] = seen
        unit = self.mean.value if np.isfinite(self.mean.value) and self.mean.value > 0 else 1.0
        history[:, 1] = np.where(seen, np.log1p(self.instances.mean_loss[ids] / unit), 0.0)
        history[:, 2] = np.where(seen, np.log1p(np.maximum(0, epoch - self.instances.last_epoch[ids])), 0.0)
        if self.classifier is not None:
            history[:, HISTORY_FEATURES:] = self.classifier.loss_features(ids)
        return history
