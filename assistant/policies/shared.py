"""What holds for every policy: warm-up, anneal, gate, floor, noise guard, class floor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from assistant.estimates import Lift, State, Stateful, gather, scatter
from assistant.policies.base import CLEARLY, Given, Moment, Policy
from assistant.policies.checked import checked
from assistant.policies.guards import SET_ASIDE, NoiseGuard, with_class_floor
from protocol.arrays import F32, I64
from protocol.errors import SettingError
from protocol.messages import LossRecord
from protocol.schedule import phase_of

MID_RUN = 0.5
"""Progress at which a rule is judged: a loss record does not say its own."""


class Guarded(Policy):
    """A policy under the run's shared options.

    In the order in which they decide: everything passes in the warm-up and in the anneal, and while the lift of the
    bare rule is not clearly positive (the gate); else the rule's π, within [γ, 1]. Then what the noise guard has set
    aside gets at most 0.05, in the anneal and under a closed gate too; then no class may fall below its floor.

    The gate judges each report by what the bare rule says of it before the rule learns from it, and so opens and closes
    again by itself. Price: each reported instance is scored once more.
    """

    def __init__(self, policy: Policy, given: Given) -> None:
        settings = given.settings
        self.policy = policy
        self._rule = checked(policy, settings.policy)
        self.settings = settings
        self.floor = given.floor
        self.n = given.n
        self.gate = Lift() if settings.gate and policy.wants_gate else None
        guard = settings.noise_guard
        wanted = guard == "on" or (guard == "auto" and policy.wants_noise_guard)
        self.noise = NoiseGuard(given.n, by_itself=guard == "auto", tables=given.tables) if wanted else None
        self.labels = given.labels if settings.class_floor > 0.0 else None

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"policy": self._rule}
        if self.gate is not None:
            parts["gate"] = self.gate
        if self.noise is not None:
            parts["noise"] = self.noise
        return parts

    def state_dict(self) -> State:
        """The policy's, and that of gate and noise guard where the run has them."""
        return gather(self._parts())

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        scatter(self._parts(), state)

    @property
    def version(self) -> int:
        """The policy's."""
        return self._rule.version

    @property
    def lift(self) -> tuple[float, float]:
        """The gate's; the policy's own where it judges itself."""
        if self.gate is None:
            return self._rule.lift
        value, error = self.gate.value_and_error
        return value, error if np.isfinite(error) else 0.0

    @property
    def figures(self) -> Mapping[str, float]:
        """The policy's, its lift at last, and how many instances are set aside where there is a noise guard."""
        value, error = self.lift
        aside = {} if self.noise is None else {"set_aside": float(len(self.noise.set_aside))}
        return {**self._rule.figures, "lift": value, "lift_error": error, **aside}

    @property
    def set_aside(self) -> I64:
        """The noise guard's; the policy's own without one."""
        return self._rule.set_aside if self.noise is None else self.noise.set_aside

    def observe(self, record: LossRecord) -> None:
        """Judge the rule on the record, then let all learn from it."""
        ids, losses = record.ids, record.losses
        if self.gate is not None:
            proposed = self._proposed(ids, Moment(record.epoch, MID_RUN))
            self.gate.add(proposed, self._rule.utility(ids, losses), 1.0 / record.keep_probabilities)
        if self.noise is not None:
            self.noise.observe(ids, losses, 1.0 / record.keep_probabilities)
        self._rule.observe(record)

    def observe_fresh(self, ids: I64, losses: F32) -> None:
        """The policy's."""
        self._rule.observe_fresh(ids, losses)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        phase = phase_of(self.settings, self.n, moment.epoch, moment.progress)
        if phase == "warmup":
            return np.ones(len(ids), dtype=np.float32)
        shrinks = not phase and self._is_open
        keep = self._proposed(ids, moment) if shrinks else np.ones(len(ids), dtype=np.float32)
        if self.noise is not None and self.noise.acts:
            limit = min(SET_ASIDE, self.floor or SET_ASIDE)
            keep = np.where(self.noise.is_set_aside(ids), np.minimum(keep, np.float32(limit)), keep)
        if self.labels is not None:
            keep = with_class_floor(keep, self.labels[ids], self.settings.class_floor)
        return keep

    @property
    def _is_open(self) -> bool:
        return self.gate is None or self.gate.is_clearly_positive(CLEARLY)

    def _proposed(self, ids: I64, moment: Moment) -> F32:
        """What the bare rule says, within [γ, 1]."""
        keep = np.asarray(self._rule.keep_probability(ids, moment))
        if len(keep) and keep.dtype == np.float32 and keep.shape == (len(ids),) and self._is_within(keep):
            return keep
        if keep.shape != (len(ids),) or keep.dtype.kind != "f" or not np.isfinite(keep).all():
            what = f"{keep.dtype} of shape {keep.shape}" + (", not all finite" if keep.shape == (len(ids),) else "")
            who = f"policy={self.settings.policy}: {type(self.policy).__name__}.keep_probability"
            raise SettingError(f"{who} gave {what}; it must give finite floats of shape ({len(ids)},)")
        proposed: F32 = np.minimum(np.maximum(keep, np.float32(self.floor)), np.float32(1.0)).astype(
            np.float32, copy=False
        )
        return proposed

    def _is_within(self, keep: F32) -> bool:
        """Whether all lie in [γ, 1]; NaN does not."""
        # The places of the extremes, or of a NaN, are found several times as fast as the extremes.
        return bool(keep[keep.argmin()] >= np.float32(self.floor) and keep[keep.argmax()] <= 1.0)
