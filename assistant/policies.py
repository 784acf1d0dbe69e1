"""Rules that turn what is known of an instance into its keep probability π."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import Lift, RunningMean, RunningQuantile, State
from assistant.instances import InstanceStore
from assistant.learned import HISTORY_FEATURES, LogisticModel
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.settings import RunSettings

WARMUP_EPOCHS = 1
ANNEAL_FROM = 7 / 8
"""Fraction of the run after which everything passes again, as InfoBatch does: it is what reaches the final accuracy."""
RECENT_EPOCHS = 5
THRESHOLD_QUANTILE = 0.7
CLEARLY = 2.0
"""Standard errors above zero from which a lift counts as positive."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the run a window stands."""

    epoch: int
    progress: float
    """Fraction of the run's budget, 0 … 1."""

    @property
    def passes_everything(self) -> bool:
        """The warm-up and the anneal: nothing is shrunk, whatever the policy."""
        return self.epoch < WARMUP_EPOCHS or self.progress > ANNEAL_FROM


class Policy(ABC):
    """One rule. ``observe`` in log order, ``keep_probability`` at any time; neither does I/O."""

    @abstractmethod
    def observe(self, record: LossRecord) -> None:
        """Learn from one loss record; its losses are finite."""

    @abstractmethod
    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """π of each candidate, shape ``(k,)``, within ``(0, 1]``."""

    def state_dict(self) -> State:
        """All that ``observe`` has changed, as plain arrays by name."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``; raises KeyError or ValueError for the state of something else."""
        del state

    @property
    def version(self) -> int:
        """Updates of the learned part so far."""
        return 0

    @property
    def lift(self) -> tuple[float, float]:
        """Lift of what the policy would keep, and its standard error; (0, 0) where it estimates none."""
        return 0.0, 0.0


class Uniform(Policy):
    """Everything passes: the full epoch."""

    def observe(self, record: LossRecord) -> None:
        """Nothing to learn."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """π = 1."""
        del moment
        return np.ones(len(ids), dtype=np.float32)


class RandomDrop(Policy):
    """The control that any selection must beat: the same π for all, redrawn in each epoch."""

    def __init__(self, drop_rate: float) -> None:
        self.drop_rate = drop_rate

    def observe(self, record: LossRecord) -> None:
        """Nothing to learn."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """π = 1 - drop_rate, but for warm-up and anneal."""
        return np.full(len(ids), 1.0 if moment.passes_everything else 1.0 - self.drop_rate, dtype=np.float32)


class AutoAssist(Policy):
    """Our default: the soft loss table where an instance has a recent loss, the learned model where it has none.

    Table: π_i = clip(mean loss of i / T̄, γ, 1) with T̄ the running mean of the unbiased stream. Learned: π_i =
    clip(q_i / P(z = 1), γ, 1), so that an average instance passes, as in the table; z_i = 1[loss_i > T], T the 0.7
    quantile of the unbiased stream. Each of the two has a lift of its own, judged on every report before it is learned
    from; one that is not clearly positive shrinks nothing.
    """

    def __init__(
        self,
        n: int,
        *,
        floor: float,
        features: NDArray[np.float32] | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.floor = floor
        self.instances = InstanceStore(n)
        self.model = LogisticModel(features, labels)
        self.mean = RunningMean()
        self.threshold = RunningQuantile(THRESHOLD_QUANTILE)
        self.table_lift = Lift()
        self.learned_lift = Lift()
        self._parts: dict[str, InstanceStore | LogisticModel | RunningMean | RunningQuantile | Lift] = {
            "instances": self.instances,
            "model": self.model,
            "mean": self.mean,
            "threshold": self.threshold,
            "table_lift": self.table_lift,
            "learned_lift": self.learned_lift,
        }

    def state_dict(self) -> State:
        """Every part's state under ``part.name``."""
        return {f"{part}.{k}": v for part, holder in self._parts.items() for k, v in holder.state_dict().items()}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        for part, holder in self._parts.items():
            prefix = part + "."
            holder.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

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
        self.instances.record(ids, losses, record.epoch)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        keep = np.ones(len(ids), dtype=np.float32)
        if moment.passes_everything:
            return keep
        recent = self.instances.has_recent(ids, moment.epoch, RECENT_EPOCHS)
        if self.table_lift.is_clearly_positive(CLEARLY):
            keep[recent] = self._table(ids[recent])
        silent = ~recent
        if silent.any() and self.learned_lift.is_clearly_positive(CLEARLY):
            keep[silent] = self._learned(ids[silent], self._history(ids[silent], moment.epoch))
        return keep

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
        """Shape (k, 3): was it seen, its mean loss in units of T̄ on a log scale, epochs since its last loss."""
        seen = self.instances.seen[ids] > 0
        history = np.zeros((len(ids), HISTORY_FEATURES), dtype=np.float32)
        history[:, 0] = seen
        unit = self.mean.value if np.isfinite(self.mean.value) and self.mean.value > 0 else 1.0
        history[:, 1] = np.where(seen, np.log1p(self.instances.mean_loss[ids] / unit), 0.0)
        history[:, 2] = np.where(seen, np.log1p(np.maximum(0, epoch - self.instances.last_epoch[ids])), 0.0)
        return history


def make_policy(
    settings: RunSettings,
    n: int,
    features: NDArray[np.float32] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> Policy:
    """The policy that the run's settings name."""
    match settings.policy:
        case "uniform":
            return Uniform()
        case "random-drop":
            return RandomDrop(settings.drop_rate)
        case "autoassist":
            return AutoAssist(n, floor=settings.floor, features=features, labels=labels)
