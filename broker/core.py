"""The broker's decisions: events in, effects out. No socket, no clock, no disk.

What each event does lives beside what it is about: the stock and the cutting in ``stock``, leases and admission in
``leasing``, loss reports in ``routing``. This module admits roles and dispatches.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.admission import refusal_of
from broker.effects import (
    Admit,
    Effect,
    Event,
    HelloReceived,
    MessageReceived,
    PeerLost,
    RunEnded,
    Send,
    StopRequested,
    Tick,
)
from broker.leasing import accept_selection, next_deadline, release_all_of, send_window, supply
from broker.routing import accept_report, catch_up
from broker.rows import EpochRow, PeerRow, Row, RunRow, StepRow, WindowRow
from broker.state import Member, State
from protocol.messages import (
    AnyMessage,
    Credit,
    EpochEnd,
    EpochResult,
    Goodbye,
    Hello,
    LossReport,
    Selection,
    Stop,
)

REPLAY_RECORDS = 1 << 16
"""Most loss records that an Assistant which joins late is given to catch up on."""


class BrokerCore:
    """The one run of a broker. ``handle`` is the only way to change it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.state = State()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event at monotonic time ``now``; return what is to be written, then what is to be sent."""
        state = self.state
        state.effects = []
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
            case Tick():
                pass
        supply(state, now)
        for member in state.assistants():
            catch_up(state, member)
        self._finish_if_done()
        return state.effects

    def next_deadline(self) -> float | None:
        """When a Tick is due though nothing else happens; None for never."""
        return next_deadline(self.state)

    # Joining

    def _hello(self, event: HelloReceived) -> None:
        hello = event.hello
        refusal = refusal_of(self.state, event)
        if refusal is not None:
            self.state.effects.append(refusal)
            return
        state = self.state
        if state.run is None:
            assert hello.settings is not None
            state.run = RunRow(run_id=self.run_id, settings=hello.settings, dataset_id=hello.dataset_id, n=hello.n)
            state.touch_run()
        row = state.peers.get(hello.name)
        if row is None or row.incarnation != hello.incarnation:
            if row is not None:
                release_all_of(state, hello.name)
                state.members.pop(hello.name, None)
            row = self._new_peer(hello, row)
        member = state.members.get(hello.name)
        if member is None or event.fresh:
            member = Member(row=row, slots=hello.slots)
            state.members[hello.name] = member
            self._admit(hello, member)
            self._tell_again(member)
        else:
            self._admit(hello, member)

    def _new_peer(self, hello: Hello, before: PeerRow | None) -> PeerRow:
        taken = {p.index for p in self.state.peers.values() if p.role == "assistant" and p.name in self.state.members}
        index = before.index if before is not None else min(set(range(len(taken) + 1)) - taken)
        row = PeerRow(
            name=hello.name,
            role=hello.role,
            incarnation=hello.incarnation,
            rank=hello.rank,
            index=index,
            counters=before.counters if before is not None else {},
        )
        row.counters["starts"] = row.counters.get("starts", 0) + 1
        self.state.peers[hello.name] = row
        self.state.touch("peer", hello.name, row)
        return row

    def _admit(self, hello: Hello, member: Member) -> None:
        run = self.state.the_run
        if hello.role == "assistant" and hello.position >= 0:
            first = max(hello.position, run.log_records - REPLAY_RECORDS, 0)
            member.cursor = max(member.cursor, min(first, run.log_records))
            member.replay_until = max(member.replay_until, run.log_records)
        self.state.effects.append(Admit(hello.name, member.row.index, run.log_records, member.row.committed))

    def _tell_again(self, member: Member) -> None:
        """Say what a role must hold and has not heard on this stream: it has restarted, or the broker has."""
        state = self.state
        if member.row.role == "assistant":
            for row in state.leased():
                if row.assistant == member.row.name:
                    send_window(state, row)
        elif member.row.rank == 0:
            ends = {e.after_step: e for e in state.epochs.values() if e.ended}
            first = min(state.steps, default=state.the_run.next_step)
            for epoch in [e for e in state.epochs.values() if e.ended and e.after_step < first and e.result is None]:
                state.send(member.row.name, self._epoch_end(epoch))
            for step in sorted(state.steps):
                state.send(member.row.name, state.steps[step].batch)
                if step in ends:
                    state.send(member.row.name, self._epoch_end(ends[step]))
        if state.the_run.ended:
            state.send(member.row.name, Stop(reason=state.the_run.ended))

    def _epoch_end(self, row: EpochRow) -> EpochEnd:
        last = self.state.the_run.cutting_done and row.epoch == self.state.the_run.cut_epoch
        return EpochEnd(epoch=row.epoch, after_step=row.after_step, last=last)

    # Talking

    def _message(self, name: str, message: AnyMessage) -> None:
        state = self.state
        member = state.members[name]
        match message:
            case Credit() if member.row.role == "boss":
                member.credit = max(member.credit, message.limit)
                member.yielded = max(member.yielded, message.yielded)
            case Credit():
                member.credit = max(member.credit, message.limit)
                member.stalled = member.stalled and message.learned_through <= member.learned_through
                member.learned_through = max(member.learned_through, message.learned_through)
            case Selection() if member.row.role == "assistant":
                member.learned_through = max(member.learned_through, message.learned_through)
                member.stalled = False
                member.lift, member.lift_error = message.lift, message.lift_error
                accept_selection(state, name, message)
            case LossReport() if member.row.role == "boss":
                accept_report(state, name, message)
            case EpochResult() if member.row.role == "boss":
                row = state.epoch(message.epoch)
                row.result = message
                state.touch("epoch", message.epoch, row)
            case Goodbye():
                self._goodbye(name, message)
            case _:
                state.count_for(name, "messages_refused")

    def _goodbye(self, name: str, message: Goodbye) -> None:
        state = self.state
        row = state.peers[name]
        row.figures = message.figures
        state.touch("peer", name, row)
        self._lost(name)
        if row.role == "boss" and row.rank == 0 and not state.the_run.ended:
            state.the_run.boss_figures = message.figures
            self._end(message.reason)

    def _lost(self, name: str) -> None:
        if self.state.members.pop(name, None) is not None:
            release_all_of(self.state, name)

    def _stop(self, reason: Any, detail: str) -> None:
        if self.state.run is not None and not self.state.the_run.ended:
            self._end(reason, detail)

    def _end(self, reason: Any, detail: str = "") -> None:
        self.state.the_run.ended = reason
        self.state.touch_run()
        for name in self.state.members:
            self.state.effects.append(Send(name, Stop(reason=reason, detail=detail)))

    def _finish_if_done(self) -> None:
        state = self.state
        if state.run is not None and state.run.ended and not state.members:
            state.effects.append(RunEnded(state.run.ended))

    # The run store

    @classmethod
    def from_rows(cls, run_id: str, rows: list[tuple[str, Row]]) -> BrokerCore:
        """The core that wrote these rows. Nobody is connected; leases wait for their Assistants to come back."""
        core = cls(run_id)
        state = core.state
        for kind, row in rows:
            match row:
                case RunRow():
                    state.run, core.run_id = row, row.run_id
                case WindowRow():
                    state.windows[row.window] = row
                case StepRow():
                    state.steps[row.batch.step] = row
                case PeerRow():
                    state.peers[row.name] = row
                case EpochRow():
                    state.epochs[row.epoch] = row
                case _:
                    raise msgspec.ValidationError(f"unknown kind of row {kind}")
        stocked = [w for w in state.windows.values() if w.state == "stocked"]
        for window in sorted(stocked, key=lambda w: (state.epoch_of(w.window), w.order)):
            if state.epoch_of(window.window) <= state.the_run.cut_epoch:
                state.line.append(window.window)
            else:
                state.ahead.setdefault(state.epoch_of(window.window), []).append(window.window)
        return core

    def rebase_leases(self, now: float) -> None:
        """After a restart: an Assistant that held a window has a whole lease from now to answer."""
        for row in sorted((w for w in self.state.windows.values() if w.state == "leased"), key=lambda w: w.window):
            self.state.lease_deadlines[row.window] = now + self.state.settings.lease_s
