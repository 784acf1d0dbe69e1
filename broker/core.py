"""The broker's decisions: events in, effects out. No socket, no clock, no disk.

What each event does lives beside what it is about: the stock and the cutting in ``stock``, leases and admission in
``leasing``, loss reports in ``routing``. This module admits roles and dispatches.
"""

from __future__ import annotations

import math
from typing import Any

from broker.admission import give_number, refusal_of
from broker.effects import (
    Admit,
    Effect,
    Event,
    HelloReceived,
    LengthsKept,
    MessageReceived,
    PeerLost,
    RecordsUnreadable,
    RestoreSnapshot,
    RunEnded,
    Send,
    StopRequested,
    TakeSnapshot,
    Tick,
)
from broker.leasing import accept_selection, next_deadline, release_all_of, send_window, supply
from broker.lengths import accept_lengths, take_lengths
from broker.off_plan import accept_off_plan, accept_return
from broker.rebuild import state_of
from broker.recut import forget_partial_reports, recut
from broker.routing import accept_report, catch_up, drop_unreadable, start_replay
from broker.rows import EpochRow, PeerRow, Row, RunRow
from broker.state import Member, State
from broker.stock import epoch_end
from protocol.messages import (
    MOST_SET_ASIDE,
    NO_RESTORE,
    AnyMessage,
    Batch,
    Checkpoint,
    CheckpointTaken,
    Credit,
    EpochEnd,
    EpochResult,
    Goodbye,
    Hello,
    Lengths,
    LossReport,
    OffPlanReport,
    Return,
    Selection,
    Stop,
)

MAX_FENCED = 1024
"""Incarnations that a run remembers to refuse."""
MAX_SLOTS = 64
"""Most windows that one Assistant holds at once, whatever it asks for."""

RETURN_S = 10.0
"""How long after a restart a run that is over waits for the Assistants of the time before: whoever comes back to find
nobody would look for its broker for ten minutes."""


class BrokerCore:
    """The one run of a broker. ``handle`` is the only way to change it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.state = State()
        self.generation = 0
        self.fenced: list[str] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event at monotonic time ``now``; return what is to be written, then what is to be sent."""
        state = self.state
        effects = self.take(event)
        supply(state, now)
        for member in state.assistants():
            catch_up(state, member)
        self._finish_if_done(now)
        state.end_turn()
        return effects

    def take(self, event: Event) -> list[Effect]:
        """The first half of ``handle``: what the Boss's demand asks for now is left to the next ``handle``.

        So whoever has many events at hand takes all of them, then handles a Tick: leases, cuts and what passes
        unfiltered are decided by all that is known, and once, which costs more than most events do.
        """
        state = self.state
        effects = state.effects = []
        match event:
            case HelloReceived():
                self._hello(event)
            case MessageReceived(name, message, seq):
                if name in state.members:
                    if seq:
                        state.peers[name].committed = seq
                        state.touch("peer", name, state.peers[name])
                    self._message(name, message)
            case PeerLost(name):
                self._lost(name)
            case StopRequested(reason, detail):
                self._stop(reason, detail)
            case LengthsKept(lengths):
                self._stop_because(take_lengths(state, lengths))
            case RecordsUnreadable(name, start, stop):
                if name in state.members:
                    drop_unreadable(state, state.members[name], start, stop)
            case Tick():
                pass
        return effects

    def next_deadline(self) -> float | None:
        """When a Tick is due though nothing else happens; None for never."""
        return next_deadline(self.state)

    # Joining

    def _hello(self, event: HelloReceived) -> None:
        hello = event.hello
        refusal = refusal_of(self.state, event, self.run_id)
        if refusal is not None:
            self.state.effects.append(refusal)
            return
        state = self.state
        if state.run is None:
            assert hello.settings is not None
            state.run = RunRow(
                run_id=self.run_id,
                settings=hello.settings,
                dataset_id=hello.dataset_id,
                n=hello.n,
                workload=hello.workload,
                lengths_id=hello.lengths,
            )
            self._begin_generation(state.run)
        row = state.peers.get(hello.name)
        if row is None or row.incarnation != hello.incarnation:
            if hello.restore_step != NO_RESTORE and not event.restored:
                state.effects.append(RestoreSnapshot(hello.restore_step))
                return
            if event.restored:
                self._go_on_with(hello)
            if row is not None:
                release_all_of(state, hello.name)
                state.leave(hello.name)
            row = self._new_peer(hello, row)
        member = state.members.get(hello.name)
        new = member is None or event.fresh
        if member is None or event.fresh:
            member = self._join(hello, row)
        state.effects.append(Admit(hello.name, row.index, state.the_run.log_records, row.committed))
        if row.role == "assistant":
            start_replay(state, member, hello)
        elif row.rank == 0:
            state.awaits_boss = False
        if new:
            self._tell_again(member)

    def _go_on_with(self, hello: Hello) -> None:
        """The run stands at a checkpoint, and all ranks begin from it, be they as many as before or not."""
        forget_partial_reports(self.state)
        counters = self.state.the_run.counters
        counters["reports_before"] = counters.get("reports_delivered", 0)
        counters["returns_heard"] = 0  # the new Boss counts its own
        self.state.touch_run()
        world_size = hello.settings.world_size if hello.settings is not None else 0
        if world_size and world_size != self.state.settings.world_size:
            recut(self.state, world_size)

    def _new_peer(self, hello: Hello, before: PeerRow | None) -> PeerRow:
        row = PeerRow(
            name=hello.name,
            role=hello.role,
            incarnation=hello.incarnation,
            rank=hello.rank,
            index=before.index if before is not None else 0,
            counters=before.counters if before is not None else {},
        )
        row.counters["starts"] = row.counters.get("starts", 0) + 1
        self.state.peers[hello.name] = row
        self.state.touch("peer", hello.name, row)
        return row

    def _join(self, hello: Hello, row: PeerRow) -> Member:
        state = self.state
        member = Member(row=row, slots=min(hello.slots, MAX_SLOTS))
        state.returning.discard(hello.name)
        if row.role == "assistant":
            give_number(state, row)
        else:
            member.yielded = min(state.planned_steps(), default=state.the_run.next_step) - 1
        state.join(member)
        return member

    def _tell_again(self, member: Member) -> None:
        """Say what a role must hold and has not heard on this stream: it has restarted, or the broker has."""
        state = self.state
        if member.row.role == "assistant":
            for row in state.leased():
                if row.assistant == member.row.name:
                    send_window(state, row)
        elif member.row.rank == 0:
            self._tell_plan(member.row.name)
        if state.the_run.ended:
            state.send(member.row.name, Stop(reason=state.the_run.ended))

    def _tell_plan(self, name: str) -> None:
        """The Boss's stream from the last step that rank 0 has reported; what it has already, it leaves out itself."""
        state = self.state
        heard = state.the_run.reported_step
        ends = sorted((e for e in state.epochs.values() if e.ended and e.after_step >= heard), key=lambda e: e.epoch)
        told: list[tuple[int, int, Batch | EpochEnd]] = [(s, -1, state.steps[s].batch) for s in state.planned_steps()]
        told += [(e.after_step, e.epoch, self._epoch_end(e)) for e in ends]
        for _, _, message in sorted(told, key=lambda item: item[:2]):
            state.send(name, message)

    def _epoch_end(self, row: EpochRow) -> EpochEnd:
        last = self.state.the_run.cutting_done and row.epoch == self.state.the_run.cut_epoch
        return epoch_end(self.state, row, last=last)

    # Talking

    def _message(self, name: str, message: AnyMessage) -> None:
        state = self.state
        member = state.members[name]
        match message:
            case Credit() if member.row.role == "boss":
                self._boss_credit(member, message)
            case Credit():
                learned_through = state.learnable(message.learned_through)
                member.credit = max(member.credit, message.limit)
                member.stalled = member.stalled and learned_through <= member.learned_through
                member.learned_through = max(member.learned_through, learned_through)
            case Selection() if member.row.role == "assistant":
                accept_selection(state, member, message)
            case Lengths() if member.row.role == "boss":
                self._stop_because(accept_lengths(state, member, message))
            case LossReport() if member.row.role == "boss":
                accept_report(state, member, message)
            case OffPlanReport() if member.row.role == "boss":
                accept_off_plan(state, member, message)
            case Return() if member.row.role == "boss":
                accept_return(state, member, message)
            case EpochResult() if member.row.role == "boss" and 0 <= message.epoch <= state.the_run.cut_epoch:
                row = state.epoch(message.epoch)
                row.result = message
                state.touch_epoch(row)
            case Checkpoint(step=step) if (member.row.role, member.row.rank) == ("boss", 0) and state.stands_at(step):
                state.effects.append(TakeSnapshot(step))
                state.send(name, CheckpointTaken(step=step))
            case Goodbye():
                self._goodbye(name, message)
            case _:
                state.count_for(name, "messages_refused")

    def _boss_credit(self, member: Member, credit: Credit) -> None:
        """A Boss grants a number of batches beyond those that it has pulled; a new process has pulled none yet."""
        behind = max(0, member.yielded - credit.yielded)
        member.credit = max(member.credit, credit.limit + behind)
        member.yielded = max(member.yielded, min(credit.yielded, self.state.the_run.next_step - 1))

    def _goodbye(self, name: str, message: Goodbye) -> None:
        state = self.state
        row = state.peers[name]
        row.figures = {name: value for name, value in message.figures.items() if math.isfinite(value)}
        ids = message.set_aside[:MOST_SET_ASIDE]
        row.set_aside = ids[(ids >= 0) & (ids < state.the_run.n)].tolist()
        row.has_left = True
        state.touch("peer", name, row)
        self._lost(name)
        if row.role == "boss" and (row.rank == 0 or message.reason == "failed") and not state.the_run.ended:
            state.the_run.boss_figures = row.figures
            self._end(message.reason)

    def _lost(self, name: str) -> None:
        if self.state.leave(name):
            release_all_of(self.state, name)

    def _stop(self, reason: Any, detail: str) -> None:
        state = self.state
        if state.run is not None and not state.run.ended:
            is_as_before = state.awaits_boss and state.ended_before  # no Boss has taken it back: nothing has happened
            self._end(state.ended_before if is_as_before else reason, detail)

    def _stop_because(self, why: str) -> None:
        if why:
            self._stop("failed", why)

    def _end(self, reason: Any, detail: str = "") -> None:
        self.state.the_run.ended = reason
        self.state.touch_run()
        for name in self.state.members:
            self.state.effects.append(Send(name, Stop(reason=reason, detail=detail)))

    def _finish_if_done(self, now: float) -> None:
        state = self.state
        if state.run is None or not state.run.ended or state.members:
            return
        if not state.returning or now >= state.returning_until or state.run.ended == "stopped":
            state.effects.append(RunEnded(state.run.ended))

    # The run store

    @classmethod
    def from_rows(cls, run_id: str, rows: list[tuple[str, Row]]) -> BrokerCore:
        """The core that wrote these rows. Nobody is connected; leases wait for their Assistants to come back.

        Where batches are cut by tokens, ``state.lengths`` is to be set before anything is handled.
        """
        core = cls(run_id)
        state = core.state = state_of(rows)
        if state.run is not None:
            core.run_id = state.run.run_id
        return core

    def take_back(self, before: BrokerCore, resuming: str) -> None:
        """This core stands at a checkpoint that ``before`` has gone beyond: a new generation begins.

        Nobody of the time after the checkpoint has a say in it, but the incarnation that ``resuming`` names.
        """
        if before.state.run is None:
            return
        self.generation = before.state.run.generation + 1
        peers = [p.incarnation for p in before.state.peers.values() if p.incarnation != resuming]
        self.fenced = [*before.state.run.fenced, *peers][-MAX_FENCED:]
        if self.state.run is not None:
            self._begin_generation(self.state.run)

    def _begin_generation(self, run: RunRow) -> None:
        run.generation, run.fenced, run.ended = self.generation, self.fenced, ""
        self.state.touch_run()

    def rebase_leases(self, now: float) -> None:
        """After a restart: an Assistant that held a window has a whole lease from now to answer, or to come back."""
        for row in sorted((w for w in self.state.windows.values() if w.state == "leased"), key=lambda w: w.window):
            self.state.lease_deadlines[row.window] = now + self.state.settings.lease_s
        self.state.returning_until = now + RETURN_S
