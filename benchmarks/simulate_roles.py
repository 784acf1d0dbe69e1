"""The roles of the simulated run: a Boss of W ranks, and Assistants.

What they decide is the real cores'; how long it takes is a model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from assistant.core import AssistantCore
from assistant.policies import Moment, Policy
from boss.line import LocalSettings
from boss.plan import BossPlan, RankBatch, staleness_of
from protocol.arrays import F32, I64
from protocol.messages import (
    AnyMessage,
    Batch,
    Credit,
    EpochEnd,
    LossRecord,
    LossReport,
    OffPlanReport,
    RecordsDropped,
    Return,
)
from protocol.settings import RunSettings

FORWARD_SHARE = 1 / 3
"""Of a rank's step, before its losses are known: the backward pass costs about twice the forward pass."""


@dataclass(frozen=True, kw_only=True)
class RoleTimes:
    """How long the roles take for what they do, a rank's step time apart."""

    jitter: float = 0.05
    """Standard deviation of the logarithm of a rank's step time."""

    straggler_share: float = 1e-4
    """Of a rank's steps, how many take longer by far."""

    straggler_factor: float = 3.0
    """How much longer those take."""

    score_us: float = 0.12
    """An Assistant's, for a candidate; by losses alone. With 784 features about 1.05."""

    learn_us: float = 100.0
    """An Assistant's, for a loss record; by losses alone. With 784 features about 200."""

    learn_instance_us: float = 0.2
    """The same, for each instance in it; with 784 features about 1.6."""

    keep: float = 0.6
    """Share of a window that an Assistant keeps."""


class Clock(Protocol):
    """The simulation's."""

    now: float

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Call this when it is so late."""


Say = Callable[[str, AnyMessage], None]


@dataclass(slots=True)
class Step:
    """A step of the Boss, for the figures."""

    started: float
    waited_s: float
    instances: int
    unfiltered: int
    staleness: int | None
    off_plan: bool


class SimBoss:
    """All ranks. Rank 0's plan is the stream; the others have its items at once, and all end a step together.

    ``step_s`` is a rank's step, on the average; the Boss's is that of its slowest rank.
    """

    def __init__(
        self, clock: Clock, say: Say, settings: RunSettings, n: int, *, step_s: float, times: RoleTimes, seed: int
    ) -> None:
        self.clock, self.say, self.settings, self.step_s, self.times = clock, say, settings, step_s, times
        self.plan = BossPlan(0, settings, n)
        self.steps: list[Step] = []
        self.on_step: Callable[[], None] = lambda: None
        self._rng = np.random.default_rng([seed, 1])
        self._losses = np.ones(settings.step_instances, dtype=np.float32)
        self._batches: dict[tuple[bool, int], Batch] = {}
        self._waits_since: float | None = None
        self._is_local = False
        self._granted: Credit | None = None

    def receive(self, messages: list[AnyMessage]) -> None:
        """What the broker says."""
        for message in messages:
            if isinstance(message, Batch):
                self._batches[False, message.step] = message
            self.plan.receive(message)
        self.plan.to_share.clear()
        returned, self.plan.to_return = self.plan.to_return, []
        if returned:
            self.say("boss-0", Return(steps=returned))
        self.grant()
        if self._waits_since is not None:
            self._pull()

    def grant(self) -> None:
        """Say how far batches may come, where that is news."""
        credit = self.plan.credit()
        if credit != self._granted:
            self._granted = credit
            self.say("boss-0", credit)

    def _pull(self) -> None:
        """The training threads want the next batch: begin its step, or wait; after a while, draw one."""
        if self._waits_since is None:
            self._waits_since = self.clock.now
        item = self.plan.pull()
        while isinstance(item, EpochEnd):
            item = self.plan.pull()
        if isinstance(item, RankBatch):
            self._is_local = self._is_local and item.off_plan
            self._train(item)
        elif self.plan.may_draw_locally():
            since, patience_s = self._waits_since, LocalSettings().local_after_s
            if self._is_local or self.clock.now >= since + patience_s:
                self._draw()
            else:
                self.clock.at(since + patience_s, lambda: self._draw_if_waiting(since))

    def _draw_if_waiting(self, since: float) -> None:
        if self._waits_since == since and not self.plan.ready:
            self._draw()

    def _draw(self) -> None:
        self._is_local = True
        self.plan.draw()
        drawn = self.plan.to_share.pop() if self.plan.to_share else None
        if isinstance(drawn, Batch):
            self._batches[True, drawn.step] = drawn
        self._pull()

    def _train(self, item: RankBatch) -> None:
        now, since = self.clock.now, self._waits_since
        assert since is not None
        self._waits_since = None
        batch = self._batches.pop((item.off_plan, item.step), None)
        self.steps.append(_step(item, batch, now, now - since))
        self.on_step()
        if len(self.plan.ready) <= self.settings.prefetch_batches // 2:
            self.grant()
        took_s = self._step_times()
        for rank, rank_s in enumerate(took_s.tolist()):
            self.clock.at(now + FORWARD_SHARE * rank_s, self._reporting(item, batch, rank))
        self.clock.at(now + float(took_s.max()), self._pull)

    def _step_times(self) -> np.ndarray:
        times, ranks = self.times, self.settings.world_size
        took_s = self.step_s * np.exp(times.jitter * self._rng.standard_normal(ranks) - times.jitter**2 / 2)
        slow = self._rng.random(ranks) < times.straggler_share
        return np.where(slow, times.straggler_factor * took_s, took_s)

    def _reporting(self, item: RankBatch, batch: Batch | None, rank: int) -> Callable[[], None]:
        return lambda: self._report(item, batch, rank)

    def _report(self, item: RankBatch, batch: Batch | None, rank: int) -> None:
        if rank == 0:
            self.plan.reported()
        count = len(item.ids) if batch is None else batch.rank_counts[rank]
        losses = self._losses[:count]
        if item.off_plan:
            start = 0 if batch is None else sum(batch.rank_counts[:rank])
            ids = item.ids if batch is None else batch.ids[start : start + count]
            self.say(f"boss-{rank}", OffPlanReport(number=item.step, through=item.step, ids=ids, losses=losses))
        else:
            self.say(f"boss-{rank}", LossReport(step=item.step, through=item.step, rank=rank, losses=losses))
        if rank == 0:
            self.grant()

    def start(self) -> None:
        """Everybody has joined."""
        self.grant()
        self._pull()


def _step(item: RankBatch, batch: Batch | None, started: float, waited_s: float) -> Step:
    unfiltered = item.instances
    if batch is not None and not item.off_plan:
        unfiltered = sum(s.count for s in batch.segments if s.learned_through is None)
    staleness = None if batch is None else staleness_of(batch)
    return Step(started, waited_s, item.instances, unfiltered, staleness, item.off_plan)


class Steady(Policy):
    """Keeps the same share of every window."""

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def observe(self, record: LossRecord) -> None:
        """Learns nothing; learning takes its time all the same."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """The same for all."""
        del moment
        return np.full(len(ids), self.keep, dtype=np.float32)


class LightCore(AssistantCore):
    """Decides as AssistantCore does; a record is only counted."""

    def _apply(self, record: LossRecord | RecordsDropped) -> None:
        self.applied = record.position + 1 if isinstance(record, LossRecord) else record.through_position
        self.learned_through = max(self.learned_through, record.learned_through)


@dataclass(slots=True)
class SimAssistant:
    """One Assistant: a core, and the time that what it does takes."""

    name: str
    clock: Clock
    say: Say
    core: AssistantCore
    times: RoleTimes
    busy_s: float = 0.0
    _busy: bool = field(default=False)

    def receive(self, messages: list[AnyMessage]) -> None:
        """What the broker says."""
        for message in messages:
            self.core.receive(message)
        if not self._busy:
            self._work()

    def start(self) -> None:
        """It has joined."""
        for message in self.core.grant():
            self.say(self.name, message)

    def _work(self) -> None:
        """Work up to the next message, which is said when that is done."""
        core, took_s = self.core, 0.0
        said: list[AnyMessage] = []
        while not said and core.has_work():
            window = core.windows[0] if core.windows else None
            record = core.records[0] if core.records else None
            said = core.work()
            if window is not None and (not core.windows or core.windows[0] is not window):
                took_s += self.times.score_us * len(window.ids) / 1e6
            elif isinstance(record, LossRecord):
                took_s += (self.times.learn_us + self.times.learn_instance_us * len(record.ids)) / 1e6
        self._busy = bool(said) or took_s > 0
        if self._busy:
            self.busy_s += took_s
            self.clock.at(self.clock.now + took_s, lambda: self._done(said))

    def _done(self, said: list[AnyMessage]) -> None:
        for message in said:
            self.say(self.name, message)
        self._work()
