"""Our default: keep by the loss that an instance is predicted to have now."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import Lift, RunningMean, RunningQuantile, State, Stateful, gather, scatter
from assistant.fresh import FreshLosses
from assistant.instances import InstanceStore, Remembered
from assistant.looks import Looks, OwnModels
from assistant.loss_model import LossModel
from assistant.policies.base import CLEARLY, Given, Moment, Policy
from assistant.tables import Tables
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
MOST_F32 = float(np.finfo(np.float32).max)
MOST_RELATIVE = 1e6
"""So that no finite loss makes an infinite average."""
EASY = 0.25
"""Scale of the squares, so that all columns are of the same order."""


class Found(NamedTuple):
    """What is known of some instances."""

    remembered: Remembered
    unseen: NDArray[np.intp]
    """Places of those of which nothing is remembered."""
    looks: Looks | None
    """At those; None where there are none, or nothing to look at."""


class AutoAssist(Policy):
    """Our default: π_i = clip(E[loss_i] / T̄, γ, 1), T̄ the running mean of the unbiased stream.

    The expectation is a regression's (``LossModel``), fitted on every report before its losses are known to it, on what
    the Assistant knows of each instance. Of one that has been trained: its last loss and the average of its losses,
    each in units of T̄ **at the time**, for losses fall while it waits, and the epochs since then. Of one that has not:
    q_i of the learned model, z_i = 1[loss_i > T], T the 0.7 quantile of the unbiased stream, and, where there are
    features and labels, its loss under a classifier of the Assistant's own; these learn from each instance's first
    report, which is what they are asked about. While the lift of the whole is not clearly positive nothing is shrunk.

    Where an Assistant looks ahead (``assistant.look_ahead``), π_i is the loss that the Boss's weights of some hundred
    steps ago give the instance, over the mean of all such losses, without a regression: what that would shrink towards
    the mean is what tells the instances apart.

    Ours, on top of Zhang, Yu, Dhillon (NeurIPS 2019), section 4.1, whose logistic model and z_i the learned model has;
    the soft proportional rule and γ = 0.1 are from the prototype's measurements (docs/RESULTS.md).
    """

    wants_gate: ClassVar[bool] = False
    takes_fresh_losses: ClassVar[bool] = True

    def __init__(
        self,
        n: int,
        *,
        floor: float,
        features: Features | None = None,
        labels: NDArray[np.int64] | None = None,
        gate: bool = True,
        looks_ahead: bool = False,
        tables: Tables | None = None,
    ) -> None:
        self.floor = floor
        self.gate = gate
        self.instances = InstanceStore(n, tables=tables)
        """Losses in units of T̄ when they were reported."""
        self.fresh = FreshLosses(n) if looks_ahead else None
        self.own = OwnModels(features, labels) if features is not None or labels is not None else None
        has_classifier = self.own is not None and self.own.classifier is not None
        self.model = LossModel(SEEN_COLUMNS + UNSEEN_COLUMNS + (CLASSIFIER_COLUMNS if has_classifier else 0))
        self.mean = RunningMean()
        self.threshold = RunningQuantile(THRESHOLD_QUANTILE)
        self.own_lift = Lift()

    @classmethod
    def make(cls, given: Given) -> AutoAssist:
        """With all that there is to know of the instances."""
        return cls(
            given.n,
            floor=given.floor,
            features=given.features,
            labels=given.labels,
            gate=given.settings.gate,
            looks_ahead=given.looks_ahead,
            tables=given.tables,
        )

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "instances": self.instances,
            "model": self.model,
            "mean": self.mean,
            "threshold": self.threshold,
            "lift": self.own_lift,
        }
        if self.own is not None:
            parts["own"] = self.own
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
        found = self._look_up(ids)
        known = self._known(found, record.epoch)
        if self._has_scale:
            self.own_lift.add(self._clipped(self._expected(ids, known)), losses, weights)
            self.model.learn(known, self._relative(losses), weights)
        self.mean.add(losses, weights)
        self.threshold.add(losses, weights)
        if self.own is not None and found.looks is not None:
            # Of what it is asked about: in later epochs there is less and less of it, and of this work.
            is_lossy = losses[found.unseen] > self.threshold.value
            self.own.learn(found.looks, is_lossy.astype(np.float32), weights[found.unseen])
        self.instances.record(ids, self._relative(losses), record.epoch)
        if self.fresh is not None:
            self.fresh.forget(ids)

    def observe_fresh(self, ids: I64, losses: F32) -> None:
        """Of use until the instance is trained; in the next epoch too where it comes late in this one."""
        if self.fresh is not None:
            self.fresh.note(ids, losses)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        if not self._has_scale or (self.gate and not self.own_lift.is_clearly_positive(CLEARLY)):
            return np.ones(len(ids), dtype=np.float32)
        return self._clipped(self.expected_losses(ids, moment.epoch))

    def expected_losses(self, ids: I64, epoch: int) -> F32:
        """What each is predicted to lose now, in units of T̄, shape ``(k,)``."""
        return self._expected(ids, self._known(self._look_up(ids), epoch))

    def _expected(self, ids: I64, known: F32) -> F32:
        """The loss itself where it is known afresh, the regression's elsewhere."""
        predicted = self.model.predict(known)
        if self.fresh is None:
            return predicted
        fresh = self.fresh.look_up(ids)
        return np.where(fresh > 0.0, fresh, predicted)

    def _clipped(self, values: F32) -> F32:
        clipped: F32 = np.maximum(values, np.float32(self.floor))
        return np.minimum(clipped, np.float32(1.0), out=clipped)

    @property
    def _has_scale(self) -> bool:
        """Whether there is a mean to compare with; losses that are zero or negative in the mean have none."""
        return self.mean.value > LEAST_MEAN

    def _relative(self, losses: F32) -> F32:
        if not self._has_scale:
            return np.ones_like(losses)
        # Limited before it is divided: in float32 the quotient of two extremes would be infinite.
        limit = np.float32(min(MOST_RELATIVE * self.mean.value, MOST_F32))
        relative: F32 = np.maximum(losses, -limit)
        np.minimum(relative, limit, out=relative)
        relative /= np.float32(self.mean.value)
        return relative

    def _look_up(self, ids: I64) -> Found:
        remembered = self.instances.look_up(ids)
        (unseen,) = remembered.is_unseen.nonzero()
        looks = None
        if self.own is not None and len(unseen):
            looks = self.own.look(ids if len(unseen) == len(ids) else ids[unseen])
        return Found(remembered, unseen, looks)

    def _known(self, found: Found, epoch: int) -> F32:
        """The regression's columns, shape (k, 7 or 9): five of what has been seen, the others of what has not; 0 where
        they do not apply."""
        count, unseen = len(found.remembered.last_epoch), found.unseen
        known = np.zeros((len(self.model.coefficients), count), dtype=np.float32)
        if len(unseen) < count:
            _write_seen(known[:SEEN_COLUMNS], found.remembered, epoch)
        if len(unseen) == count:
            self._write_unseen(known[SEEN_COLUMNS:], found.looks)
        elif len(unseen):
            known[:SEEN_COLUMNS, unseen] = 0.0
            columns = np.empty((len(known) - SEEN_COLUMNS, len(unseen)), dtype=np.float32)
            self._write_unseen(columns, found.looks)
            known[SEEN_COLUMNS:, unseen] = columns
        return known.T

    def _write_unseen(self, columns: F32, looks: Looks | None) -> None:
        """Into shape (2 or 4, k)."""
        columns[0] = 1.0
        if self.own is None or looks is None:
            columns[1] = 0.0
            return
        np.multiply(self.own.predict(looks), np.float32(1.0 / (1.0 - THRESHOLD_QUANTILE)), out=columns[1])
        if looks.losses is None:
            _take_logarithm(columns[1:])
            return
        columns[2] = looks.losses
        _take_logarithm(columns[1:3])
        np.add(columns[2], np.float32(1.0), out=columns[3])
        _make_easiness(columns[3])


def _write_seen(columns: F32, found: Remembered, epoch: int) -> None:
    """Into shape (5, k)."""
    columns[0] = 1.0
    columns[1], columns[2] = found.last_loss, found.mean_loss
    _take_logarithm(columns[1:3])
    columns[3] = columns[2]
    _make_easiness(columns[3])
    np.log1p(np.maximum(0, epoch - found.last_epoch), out=columns[4], dtype=np.float32)


def _take_logarithm(relative: F32) -> None:
    """In place."""
    np.maximum(relative, np.float32(LEAST), out=relative)
    np.minimum(relative, np.float32(MOST), out=relative)
    np.log(relative, out=relative)


def _make_easiness(logarithm: F32) -> None:
    """In place: how far it lies below the mean, squared; the loss of what is easy falls no further."""
    np.minimum(logarithm, np.float32(0.0), out=logarithm)
    logarithm *= logarithm
    logarithm *= np.float32(EASY)
