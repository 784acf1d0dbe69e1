"""All rows of a run in memory, what is derived from them, and the list of effects of the event at hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from broker.effects import AppendBatch, AppendLoss, Delete, Effect, Put, Send
from broker.reports import Reports
from broker.rows import EpochRow, PeerRow, Row, RunRow, StepRow, WindowRow
from protocol.arrays import I64
from protocol.messages import AnyMessage, Batch
from protocol.order import EpochOrder
from protocol.settings import RunSettings
from protocol.token_batches import I32, LengthsDigest

MAX_STEPS_AHEAD = 4096
"""Most steps that are cut and not yet reported, whatever credit a Boss gives; far beyond any loader's depth."""
MAX_INSTANCES_AHEAD = 1 << 26
"""The same in instances: about 800 MB of IDs and probabilities."""


@dataclass(slots=True)
class Member:
    """A peer that is connected now. Not stored: a restarted broker learns it from the next Hello."""

    row: PeerRow
    credit: int = -1
    """Boss: highest step that may be sent. Assistant: loss records below this may be sent."""
    yielded: int = -1
    """Boss: highest step that its script has pulled."""
    slots: int = 0
    """Assistant: windows that it takes at once."""
    learned_through: int = -1
    """Assistant: ℓ as it last said."""
    cursor: int = 0
    """Assistant: next loss record to send."""
    replay_until: int = 0
    """Assistant: records below this were there when it joined, and are not declared dropped."""
    stalled: bool = False
    """Assistant: let a lease run out, or answered with nonsense, and has shown no progress since."""
    lift: float = 0.0
    lift_error: float = 0.0

    def may_hear(self, run: RunRow) -> int:
        """Assistant: loss records below this may be sent; a credit far beyond what it has learned is cut down."""
        position, step = run.log_origin
        steps = max(0, self.learned_through + 1 + MAX_STEPS_AHEAD - step)
        return min(self.credit, position + steps * run.settings.world_size)


@dataclass(slots=True)
class State:
    """See the module. ``touch`` and ``forget`` are the only ways to change what is stored."""

    run: RunRow | None = None
    windows: dict[int, WindowRow] = field(default_factory=dict)
    steps: dict[int, StepRow] = field(default_factory=dict)
    peers: dict[str, PeerRow] = field(default_factory=dict)
    epochs: dict[int, EpochRow] = field(default_factory=dict)
    reports: dict[int, Reports] = field(default_factory=dict)
    """By step, of those that are in ``steps`` and of which one has come."""

    members: dict[str, Member] = field(default_factory=dict)
    """Changed by ``join`` and ``leave`` alone."""
    lease_deadlines: dict[int, float] = field(default_factory=dict)
    line: deque[int] = field(default_factory=deque)
    """Windows whose instances are cut next: a remainder, then the epoch being cut, in order of arrival."""
    off_plan: dict[int, int] = field(default_factory=dict)
    """Off-plan steps that are not in the log: their number among the off-plan steps → their step."""
    ahead: dict[int, list[int]] = field(default_factory=dict)
    """Windows in stock of epochs after the one being cut."""
    returning: set[str] = field(default_factory=set)
    """Assistants that this process has not heard of since its start, though they have said no Goodbye."""
    returning_until: float = 0.0
    """When a run that is over waits for them no longer."""
    ended_before: str = ""
    """How the run had ended, where it was opened again; it has still ended so while ``awaits_boss``."""
    awaits_boss: bool = False
    """Whether a Boss has yet to come that may take the run back; what an Assistant learned before would be void."""
    lengths: I32 | None = None
    """Tokens of each instance, where batches are cut by tokens and all of them are there; may lie on disk."""
    lengths_digest: LengthsDigest = field(default_factory=LengthsDigest)
    """Of the lengths that this process has kept, where it has kept the first."""
    hungry_since: float | None = None
    """Since when the Boss asks for a batch that cannot be cut."""
    effects: list[Effect] = field(default_factory=list)
    _assistants: list[Member] = field(default_factory=list)
    _bosses: dict[int, Member] = field(default_factory=dict)
    _open_reports: list[Reports] = field(default_factory=list)
    _touched_in: list[Effect] | None = None
    """The list of effects that has the run's row."""
    _orders: dict[int, EpochOrder] = field(default_factory=dict)
    _tokens: dict[int, tuple[I64, int, int]] = field(default_factory=dict)
    """What of a window was counted last, and its tokens."""

    @property
    def the_run(self) -> RunRow:
        """The run's row, where a Boss has fixed the run already."""
        assert self.run is not None
        return self.run

    @property
    def settings(self) -> RunSettings:
        """The run's settings."""
        assert self.run is not None
        return self.run.settings

    # What is derived

    @property
    def windows_per_epoch(self) -> int:
        """Windows in one epoch."""
        return -(-self.the_run.n // self.settings.window_instances)

    @property
    def total_windows(self) -> int | None:
        """Windows in the run; None where the budget is counted in Boss instances."""
        epochs = self.settings.epoch_budget
        return None if epochs is None else epochs * self.windows_per_epoch

    def epoch_of(self, window: int) -> int:
        """Epoch that offers a window."""
        return window // self.windows_per_epoch

    def window_size(self, window: int) -> int:
        """Candidate IDs in a window; an epoch's last window may be shorter."""
        start = (window % self.windows_per_epoch) * self.settings.window_instances
        return min(self.the_run.n - start, self.settings.window_instances)

    def window_ids(self, window: int) -> I64:
        """Candidate IDs of a window, in the epoch's order."""
        epoch = self.epoch_of(window)
        if epoch not in self._orders:
            if len(self._orders) > 3:
                self._orders.clear()
            self._orders[epoch] = EpochOrder(self.the_run.n, self.settings.seed, epoch)
        start = (window % self.windows_per_epoch) * self.settings.window_instances
        return self._orders[epoch].ids(start, start + self.window_size(window))

    def untaken(self, windows: Iterable[int]) -> int:
        """Kept instances of these windows that are not cut yet."""
        return sum(len(self.windows[w].kept_ids) - self.windows[w].taken for w in windows)

    @property
    def line_instances(self) -> int:
        """Instances that may be cut now."""
        return self.untaken(self.line)

    @property
    def ahead_instances(self) -> int:
        """Instances in stock for later epochs."""
        return sum(self.untaken(windows) for windows in self.ahead.values())

    # Sizes in what batches are cut by: instances, or tokens

    @property
    def awaits_lengths(self) -> bool:
        """Whether nothing can be cut yet, since the lengths of the instances have not come."""
        return self.lengths is None and self.settings.max_tokens is not None

    @property
    def step_size(self) -> int:
        """Of a step."""
        tokens = self.settings.max_tokens
        return self.settings.step_instances if tokens is None else tokens * self.settings.world_size

    def size_of(self, ids: I64) -> int:
        """Of these instances, padding left out."""
        return len(ids) if self.lengths is None else int(self.lengths[ids].sum(dtype=np.int64))

    def typical_size(self, instances: int) -> int:
        """Of so many instances, on the average."""
        return instances if self.lengths is None else instances * self.step_size // self.settings.step_instances

    def offered_size(self, window: int) -> int:
        """Of a window that is not decided yet, if all of it were kept."""
        return self.typical_size(self.window_size(window))

    def waiting(self, windows: Iterable[int]) -> int:
        """Of what is kept of these windows and not cut."""
        if self.lengths is None:
            return self.untaken(windows)
        return sum(self._tokens_of(window) for window in windows)

    def _tokens_of(self, window: int) -> int:
        row, known = self.windows[window], self._tokens.get(window)
        if known is None or known[0] is not row.kept_ids or known[1] != row.taken:
            if len(self._tokens) > 2 * len(self.windows) + 16:  # of windows that are gone
                self._tokens.clear()
            known = self._tokens[window] = row.kept_ids, row.taken, self.size_of(row.kept_ids[row.taken :])
        return known[2]

    @property
    def in_stock(self) -> int:
        """Of all that is kept and not cut, of this epoch and later ones."""
        return self.waiting(self.line) + sum(self.waiting(windows) for windows in self.ahead.values())

    def leased(self) -> list[WindowRow]:
        """Windows that Assistants hold, oldest lease first."""
        return [self.windows[w] for w in self.lease_deadlines]

    def progress(self, window: int) -> float:
        """Fraction of the budget that is spent once ``window`` is offered, or all that is in stock is cut, 0 … 1."""
        total, budget = self.total_windows, self.settings.boss_instances
        if budget is not None:
            decided = self.the_run.instances_cut + self.line_instances + self.ahead_instances
            return min(1.0, decided / budget)
        assert total is not None
        return min(1.0, (window + 1) / total)

    def learnable(self, learned_through: int) -> int:
        """A claimed ℓ, as far as it can be true: nobody has learned of a step that is not in the loss log."""
        return max(-1, min(learned_through, self.the_run.log_step - 1))

    def assistants(self) -> list[Member]:
        """Connected Assistants, by index; a stalled one is among them. Not to be changed."""
        return self._assistants

    def boss(self, rank: int = 0) -> Member | None:
        """Connected Boss of a rank."""
        return self._bosses.get(rank)

    @property
    def may_cut(self) -> int:
        """Highest step that the Boss's credit allows, bounded whatever it says; -1 where there is no Boss."""
        boss = self.boss()
        if boss is None:
            return -1
        shifted = boss.credit + self.off_plan_after(boss.yielded)
        most = max(2, min(MAX_STEPS_AHEAD, MAX_INSTANCES_AHEAD // self.settings.step_instances))
        return min(shifted, self.the_run.log_step - 1 + most)

    def planned_steps(self) -> list[int]:
        """Outstanding steps of the plan."""
        return [step for step, row in self.steps.items() if row.batch.kind == "plan"]

    def stands_at(self, step: int) -> bool:
        """Whether every report up to ``step`` is logged and none of a later step of the plan has come."""
        run = self.the_run
        beyond = self.off_plan_after(step) - self.off_plan_after(run.log_step - 1)
        return run.reported_step == step < run.log_step and beyond == run.log_step - 1 - step

    def off_plan_after(self, step: int) -> int:
        """Numbers above ``step`` that no batch of the plan has: off-plan steps', and those of what was given back."""
        return sum(max(0, stop - max(start, step + 1)) for start, stop in self.the_run.off_plan_ranges)

    # What changes

    def join(self, member: Member) -> None:
        """A role is connected."""
        self.members[member.row.name] = member
        self._sort_members()

    def leave(self, name: str) -> bool:
        """A role is connected no longer; False where it was not."""
        was_there = self.members.pop(name, None) is not None
        self._sort_members()
        return was_there

    def _sort_members(self) -> None:
        """Once for each change, not each time that somebody asks, which would cost much with many ranks."""
        found = self.members.values()
        self._assistants = sorted((m for m in found if m.row.role == "assistant"), key=lambda m: m.row.index)
        self._bosses = {m.row.rank: m for m in found if m.row.role == "boss"}

    def add_step(self, batch: Batch) -> None:
        """A batch is the next step, or stands in an untrained one's place."""
        self.steps[batch.step] = row = StepRow(batch=batch)
        self.touch("step", batch.step, row)

    def drop_step(self, step: int) -> StepRow:
        """A step is logged, or cut anew: it and what was reported of it are gone."""
        self.forget_reports(step)
        self.forget("step", step)
        return self.steps.pop(step)

    def reports_of(self, step: int) -> Reports:
        """Of an outstanding step."""
        if step not in self.reports:
            self.reports[step] = Reports(self.steps[step].batch)
        return self.reports[step]

    def keep_report(self, step: int, rank: int) -> None:
        """Write a report that has not been logged at once."""
        reports = self.reports.get(step)
        if reports is not None and rank in reports.losses:
            if not reports.is_open:
                self._open_reports.append(reports)
            row = reports.row_of(rank)
            self.touch("reports", row.key, row)

    def forget_reports(self, step: int) -> None:
        """Nothing has been reported of a step."""
        reports = self.reports.pop(step, None)
        for row in reports.rows if reports is not None else ():
            self.forget("reports", row.key)

    def end_turn(self) -> None:
        """All events that are committed together have been taken."""
        for reports in self._open_reports:
            reports.is_open = False
        self._open_reports.clear()

    def touch(self, kind: str, key: int | str, row: Row) -> None:
        """Note that a row is new or changed."""
        self.effects.append(Put(kind, str(key), row))

    def touch_run(self) -> None:
        """Note that the run's row is changed; once for each event is enough."""
        if self._touched_in is not self.effects:
            self._touched_in = self.effects
            self.touch("run", "run", self.the_run)

    def forget(self, kind: str, key: int | str) -> None:
        """Note that a row is gone."""
        self.effects.append(Delete(kind, str(key)))

    def send(self, name: str, message: AnyMessage) -> None:
        """Say something to a member that is connected; nothing happens where it is not."""
        if name in self.members:
            self.effects.append(Send(name, message))

    def append(self, effect: AppendLoss | AppendBatch) -> None:
        """Append to a log."""
        self.effects.append(effect)

    def count(self, counter: str, by: float = 1) -> None:
        """Add to a counter of the run."""
        counters = self.the_run.counters
        counters[counter] = counters.get(counter, 0) + by
        self.touch_run()

    def count_for(self, name: str, counter: str, by: float = 1) -> None:
        """Add to a counter of a peer."""
        row = self.peers[name]
        row.counters[counter] = row.counters.get(counter, 0) + by
        self.touch("peer", name, row)

    def epoch(self, epoch: int) -> EpochRow:
        """Row of an epoch; an empty one where nothing is known of it, which ``touch_epoch`` makes part of the run."""
        return self.epochs.get(epoch) or EpochRow(epoch=epoch)

    def touch_epoch(self, row: EpochRow) -> None:
        """Note that an epoch's row is new or changed."""
        self.epochs[row.epoch] = row
        self.touch("epoch", row.epoch, row)
