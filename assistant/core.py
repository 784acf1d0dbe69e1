"""The Assistant's decisions: what to do next, learn or score. No socket, no clock.

Scoring comes first, since a Boss may wait for it; learning comes first where the Assistant lags behind by more than
half the staleness bound, since its selections would soon be refused, and where deterministic mode orders it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np

from assistant.drawing import Drawing
from assistant.policies import Moment, Policy
from assistant.preview import LossHistory
from protocol.arrays import F32, I64
from protocol.messages import AnyMessage, Credit, LossRecord, RecordsDropped, Selection, Window
from protocol.settings import RunSettings

CREDIT_RECORDS = 512
"""Loss records that may wait here, or those of two steps where there are many ranks; beyond it they wait at the
broker."""
CREDITS = 32
"""So often the credit is said anew while as many records as it allows are applied."""
LOOKED_AT = "instances_looked_at"
"""The figure that there is where an Assistant looks ahead."""
UNORDERED = -2
"""``Window.learn_through`` outside deterministic mode."""


@dataclass(slots=True)
class AssistantCore:
    """Messages in by ``receive``, work done by ``work``; both return messages for the broker."""

    settings: RunSettings
    policy: Policy
    windows: deque[Window] = field(default_factory=deque)
    records: deque[LossRecord | RecordsDropped] = field(default_factory=deque)
    learned_through: int = -1
    position: int = 0
    """Loss records received so far; the next one expected."""
    applied: int = 0
    """Loss records applied or declared dropped."""
    figures: dict[str, float] = field(default_factory=dict)
    watcher: LossHistory | None = None
    """Hears what the policy hears."""
    moment: Moment = Moment(0, 0.0)
    """Of the window that was scored last."""
    _granted: int = 0
    _drawing: Drawing = field(init=False)
    _credit: int = field(init=False)

    def __post_init__(self) -> None:
        self._drawing = Drawing(self.settings.seed)
        self._credit = max(CREDIT_RECORDS, 2 * self.settings.world_size)

    def receive(self, message: AnyMessage) -> list[AnyMessage]:
        """Take in a window or a record; a repeated one changes nothing."""
        match message:
            case Window():
                if all((w.window, w.attempt) != (message.window, message.attempt) for w in self.windows):
                    self.windows.append(message)
            case LossRecord() if message.position >= self.position:
                self.position = message.position + 1
                self.records.append(message)
            case RecordsDropped() if message.through_position > self.position:
                self.position = message.through_position
                self.records.append(message)
            case _:
                pass
        return []

    def grant(self) -> list[AnyMessage]:
        """Say how far records may come and what is learned."""
        self._granted = self.applied
        return [Credit(limit=self.applied + self._credit, learned_through=self.learned_through)]

    def refresh(self, ids: I64, losses: F32) -> None:
        """Take in losses that were found by looking ahead; finite, shape ``(k,)`` both."""
        self.policy.observe_fresh(ids, losses)
        self._count(LOOKED_AT, len(ids))

    def has_work(self) -> bool:
        """Whether ``work`` would do anything now."""
        return self._next_window() is not None or self._may_learn()

    def work(self) -> list[AnyMessage]:
        """Do one piece of work: score one window, or apply one record."""
        window = self._next_window()
        if window is not None and not self._must_learn_first():
            self.windows.popleft()
            return [self._score(window)]
        if not self._may_learn():
            return []
        self._apply(self.records.popleft())
        return self.grant() if self.applied - self._granted >= self._credit // CREDITS or not self.records else []

    def _next_window(self) -> Window | None:
        """The first window, where what it orders to learn first has been learned."""
        if not self.windows or self.windows[0].learn_through > self.learned_through:
            return None
        return self.windows[0]

    def _may_learn(self) -> bool:
        """In deterministic mode, only what the first window orders is learned."""
        if not self.records:
            return False
        if not self.settings.deterministic:
            return True
        ordered = self.windows[0].learn_through if self.windows else UNORDERED
        head = self.records[0]
        return head.learned_through <= ordered if isinstance(head, RecordsDropped) else head.step <= ordered

    def _must_learn_first(self) -> bool:
        if self.settings.deterministic or not self.records:
            return False
        newest = self.records[-1].learned_through
        return newest - self.learned_through > self.settings.staleness_bound // 2

    def _apply(self, record: LossRecord | RecordsDropped) -> None:
        if isinstance(record, LossRecord):
            self.applied = record.position + 1
            finite = np.isfinite(record.losses)
            if not finite.all():
                record = msgspec.structs.replace(
                    record,
                    ids=record.ids[finite],
                    losses=record.losses[finite],
                    keep_probabilities=record.keep_probabilities[finite],
                )
            if len(record.ids):
                self.policy.observe(record)
                if self.watcher is not None:
                    self.watcher.observe(record)
                self._count("instances_learned", len(record.ids))
        else:
            self.applied = record.through_position
        self.learned_through = max(self.learned_through, record.learned_through)

    def _score(self, window: Window) -> Selection:
        self.moment = Moment(window.epoch, window.progress)
        keep = self.policy.keep_probability(window.ids, self.moment)
        (places,) = self._drawing(window.window, keep).nonzero()
        self._count("instances_scored", len(window.ids))
        self._count("instances_kept", len(places))
        lift, error = self.policy.lift
        return Selection(
            window=window.window,
            attempt=window.attempt,
            kept_ids=window.ids.take(places),
            keep_probabilities=keep.take(places),
            learned_through=self.learned_through,
            version=self.policy.version,
            lift=lift,
            lift_error=error,
        )

    def _count(self, name: str, by: float) -> None:
        self.figures[name] = self.figures.get(name, 0.0) + by
