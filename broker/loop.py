"""The broker's one poll loop: sockets, clock and disk on the outside, the core within.

One iteration drains the socket, commits all rows at once, and only then sends and acknowledges. So whatever a role
was told is in the store, whenever this process dies.
"""

from __future__ import annotations

import logging
import math
import time
import uuid

import zmq

from broker.addresses import write_addresses
from broker.core import BrokerCore
from broker.effects import (
    Admit,
    AppendBatch,
    AppendLoss,
    AppendWindow,
    Delete,
    Effect,
    HelloReceived,
    KeepLengths,
    LengthsKept,
    PeerLost,
    Put,
    RecordsUnreadable,
    Refuse,
    RestoreSnapshot,
    RunEnded,
    Send,
    SendRecords,
    StopRequested,
    TakeSnapshot,
    Tick,
)
from broker.farewells import Farewells
from broker.guard import Guard
from broker.hub import Hub, Outgoing
from broker.kept_lengths import KeptLengths
from broker.monitor import Watcher
from broker.previews import Previews
from broker.publishing import publisher
from broker.report import build_statistics
from broker.report_file import ReportFile
from broker.rows import PeerRow
from broker.sending import transmit
from broker.settings import BrokerSettings
from broker.store import RunStore
from broker.story import say_taken_back
from broker.waiting import Alarm
from protocol.channels import ZmqBrokerChannel
from protocol.codec import decode
from protocol.errors import AutoAssistError, ProtocolError, StoreError, UserError
from protocol.messages import Envelope, EpochResult, Goodbye, Hello, PreviewReply
from protocol.session import SessionTimes
from protocol.signals import StopSignal
from protocol.statistics import encode_statistics

log = logging.getLogger("autoassist.broker")

MAX_DRAIN = 512
"""Messages taken in one iteration, so that a flood cannot keep the others waiting."""
MAX_DRAIN_S = 0.05
"""Time for them, so that few costly ones cannot either."""
STATISTICS_EVERY_S = 0.5


class Broker:
    """One broker process."""

    def __init__(
        self, settings: BrokerSettings, times: SessionTimes | None = None, monitor: Watcher | None = None
    ) -> None:
        self.settings = settings
        self.monitor = monitor
        self.hub = Hub(times or SessionTimes())
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self.guard = Guard(self.context, settings.keys) if settings.keys is not None else None
            key = self.guard.key if self.guard is not None else None
            self.channel = ZmqBrokerChannel(self.context, settings.address_of(settings.port), key)
            self.publisher = publisher(self.context, settings.address_of(settings.statistics_port), key)
            where = settings.address_of(settings.preview_port)
            self.previews = Previews(self.context, where, key) if settings.shows_instances else None
            # The directory is touched last: an address that cannot be had must not leave an empty run there.
            self.store = RunStore(settings.run_dir)
            self.kept_lengths = KeptLengths(settings.run_dir)
            self.core = self._restore()
        except AutoAssistError:
            self.context.destroy(linger=0)
            raise
        self.statistics_address = self.publisher.getsockopt_string(zmq.LAST_ENDPOINT)
        self._write_addresses()
        self._next_statistics = 0.0
        self._ended_at: float | None = None
        self._rows: list[Put | Delete] = []
        self._snapshot: int | None = None
        self._out: list[Outgoing] = []
        self._farewells = Farewells(self.hub.times.silence_s, time.monotonic())
        self.report_file = ReportFile(settings.run_dir)
        self._hello: tuple[bytes, Envelope]

    def _write_addresses(self) -> None:
        try:
            write_addresses(self.settings.run_dir, address=self.address, statistics=self.statistics_address)
        except AutoAssistError:
            self._close()
            raise

    def _restore(self) -> BrokerCore:
        core = self._rebuilt(uuid.uuid4().hex)
        if core.state.run is not None and core.state.run.ended and not self.settings.resume:
            self.store.close()
            raise UserError(
                f"run_dir={self.settings.run_dir}: holds a run that is over; choose another --run-dir, or --resume"
            )
        if core.state.run is not None:
            core.state.ended_before, core.state.run.ended = core.state.run.ended, ""
            core.state.awaits_boss = self.settings.resume
        core.rebase_leases(time.monotonic())
        return core

    def _rebuilt(self, run_id: str) -> BrokerCore:
        """The core as the store has it, of a run that is called so where it has none."""
        core = BrokerCore.from_rows(run_id, self.store.rows())
        core.state.lengths = self.kept_lengths.load(core.state.run)
        return core

    @property
    def address(self) -> str:
        """Where the roles connect."""
        return self.channel.address

    def run(self, stop: StopSignal) -> str:
        """Serve until the run is over or a signal comes; returns how it ended.

        Raises StoreError where the store cannot be written; what was acknowledged until then is safe.
        """
        alarm = Alarm(self._sources(stop))
        try:
            while not self._is_over():
                alarm.wait(self._timeout_ms, may_gather=self.core.state.hungry_since is None)
                stop.drain()
                self._iterate(stop)
            self._next_statistics = 0.0
            self._publish(time.monotonic())  # whoever watches sees how it ended
            let_in = self.guard.answer if self.guard is not None else tuple
            self._farewells.until_all_have_hung_up(self.channel, self.core.state.run, let_in)
            return self._finish()
        finally:
            self._close()

    def _sources(self, stop: StopSignal) -> list[zmq.Socket[bytes] | int]:
        """What wakes the loop."""
        sources: list[zmq.Socket[bytes] | int] = [self.channel.socket, stop.fileno()]
        if self.previews is not None:
            sources.append(self.previews.channel.socket)
        if self.guard is not None:
            sources.append(self.guard.socket)
        return sources

    def _iterate(self, stop: StopSignal) -> None:
        now = time.monotonic()
        self._farewells.turn(now)
        for cause in self.guard.answer() if self.guard is not None else ():
            self.hub.count_refused(cause)
        if stop.requested and self._ended_at is None:
            self._ended_at = now
            self.store.say_ending()
            self._apply(self.core.take(StopRequested()), now)
        self._drain(now)
        if self.previews is not None:
            self._out.extend(self.previews.ask(self.hub, self.guard, now))
        lost, beats = self.hub.tick(now)
        self._out.extend(beats)
        for event in lost:
            assert isinstance(event, PeerLost)
            log.warning("%s is silent; its work goes to others", event.name)
            self._apply(self.core.take(event), now)
        self._apply(self.core.handle(Tick(), now), now)
        self.store.commit(self._rows, self._snapshot)
        self._rows, self._snapshot = [], None
        self.hub.commit()
        self._out.extend(self.hub.answers(now))
        self.report_file.write_if_due(self.core, self.hub, now)  # before who has said it hears that it is safe
        self._out += self._farewells.say(self.hub, frozenset(self.core.state.members), now)
        self._transmit()
        self._publish(now)

    def _drain(self, now: float) -> None:
        for _ in range(MAX_DRAIN):
            if (received := self.channel.receive()) is None:
                return
            self._receive(*received, now)
            if time.monotonic() - now > MAX_DRAIN_S:
                return

    def _receive(self, line: bytes, frames: list[bytes], now: float) -> None:
        try:
            envelope = decode(frames)
            if (refusal := self._refusal_of(line, envelope)) is not None:
                self._out.extend(self.hub.turn_away(line, refusal))
                return
            events, replies = self.hub.receive(line, envelope, now)
        except ProtocolError as error:
            self.hub.count_refused(error.cause, line)
            log.debug("refused input: %s", error)
            self._out.extend(self.hub.explain_unreadable(line, error))
            return
        if isinstance(envelope.message, Hello):
            self._hello = (line, envelope)
        self._out.extend(replies)
        if isinstance(envelope.message, PreviewReply) and events:
            if self.previews is None or not self.previews.answer(self.hub.by_line[line].name, envelope.message):
                self.hub.count_refused("unasked", line)
            return
        for event in events:
            self._apply(self.core.take(event), now)
        self.report_file.is_due |= bool(events) and isinstance(envelope.message, EpochResult | Goodbye)

    def _refusal_of(self, line: bytes, envelope: Envelope) -> Refuse | None:
        """Why whoever is on this line has not the key for what it says; None where it has, or keys are not used."""
        if self.guard is None:
            return None
        speaker: Hello | PeerRow | None = envelope.message if isinstance(envelope.message, Hello) else None
        if speaker is None and line in self.hub.by_line:
            speaker = self.core.state.peers.get(self.hub.by_line[line].name)
        name, role = (speaker.name, speaker.role) if speaker is not None else ("", "")
        return self.guard.refusal_of(self.channel.speaker, name, role)

    def _apply(self, effects: list[Effect], now: float) -> None:
        """Do as the core has decided; number what is to be sent. All of it travels after the commit."""
        for effect in effects:
            match effect:
                case Put() | Delete():
                    self._rows.append(effect)
                case AppendLoss() | AppendBatch() | AppendWindow():
                    self.store.append(effect)
                case Send(name, message):
                    self._out.extend(self.hub.send(name, message, now))
                case SendRecords(name, start, stop):
                    self._send_records(name, start, stop, now)
                case Admit(name):
                    line, envelope = self._hello
                    self._out.extend(self.hub.admit(line, envelope, effect, self.core.state.the_run, now=now))
                    log.info("%s has joined", name)
                case Refuse(name, code, reason):
                    self._out.append(self.hub.refuse(self._hello[0], effect))
                    level = logging.DEBUG if code in ("wait", "taken", "fenced") else logging.WARNING
                    log.log(level, "refused %s: %s", name if name.isprintable() else repr(name[:99]), reason)
                case KeepLengths():
                    if (lengths := self.kept_lengths.keep(effect)) is not None:
                        self._apply(self.core.take(LengthsKept(lengths)), now)
                case TakeSnapshot(step):
                    self._snapshot = step
                case RestoreSnapshot(step):
                    if self._take_back(step, now):
                        return  # the core that had the other effects is gone
                case RunEnded():
                    self._ended_at = self._ended_at or now

    def _send_records(self, name: str, start: int, stop: int, now: float) -> None:
        """What of them can be read; deterministic mode, in which all learn the same, ends where one cannot."""
        try:
            for record in self.store.loss_records(start, stop):
                self._out.extend(self.hub.send(name, record, now))
                start = record.position + 1
        except StoreError as error:
            if self.core.state.settings.deterministic:
                raise
            log.warning("%s; %s goes on without the %d records from there on", error, name, stop - start)
            self._apply(self.core.take(RecordsUnreadable(name, start, stop)), now)

    def _take_back(self, step: int, now: float) -> bool:
        """A Boss resumes: the run stands at its checkpoint again, and everybody else must join anew.

        False where there is no such checkpoint.
        """
        line, envelope = self._hello
        hello = envelope.message
        assert isinstance(hello, Hello)
        if step != -1 and step not in self.store.snapshots():
            reason = f"there is no snapshot of step {step} in the run store, only of {self.store.snapshots()}"
            refusal = Refuse(hello.name, "restore", reason, "resume from one of these, or start a new run")
            self._out.append(self.hub.refuse(line, refusal))
            return False
        before = self.core
        self.store.restore_snapshot(step)
        self._rows, self._snapshot, self._out, self._ended_at = [], None, [], None
        self.hub = self.hub.emptied()
        self.core = self._rebuilt(before.run_id)
        self.core.rebase_leases(now)
        self.core.take_back(before, hello.incarnation)
        say_taken_back(log, step, before.state.run)
        if self.core.state.run is not None:
            self._rows.append(Put("run", "run", self.core.state.run))
        self._apply(self.core.take(HelloReceived(hello, fresh=True, restored=True)), now)
        return True

    def _transmit(self) -> None:
        for line in transmit(self.channel, self._out):
            log.debug("a line is full or gone; what follows waits for its next Hello")
            self.hub.lose_line(line)
        self._out = []

    def _publish(self, now: float) -> None:
        if now < self._next_statistics:
            return
        self._next_statistics = now + STATISTICS_EVERY_S
        statistics = build_statistics(self.core, self.hub, now)
        statistics.preview_port = self.previews.port if self.previews is not None else 0
        if self.monitor is not None:
            self.monitor.show(statistics)
        try:
            self.publisher.send(encode_statistics(statistics), zmq.NOBLOCK)
        except zmq.Again:
            return  # the next ones are newer anyway

    def _timeout_ms(self) -> int:
        now = time.monotonic()
        deadlines = [self._next_statistics, self.hub.next_deadline(), self.core.next_deadline()]
        soonest = min(d for d in deadlines if d is not None)
        return max(0, int((soonest - now) * 1000) + 1)

    def _is_over(self) -> bool:
        if self._ended_at is None:
            return False
        return not self.core.state.members or time.monotonic() - self._ended_at > self.settings.drain_s

    def _finish(self) -> str:
        if self.core.state.run is None:
            return "stopped"
        self.hub.count_strangers(math.inf)
        self.channel.close()  # what a crowd holds is free then
        self.report_file.write_last(self.core, self.hub)
        return self.core.state.run.ended or "stopped"

    def _close(self) -> None:
        self.channel.close()
        self.publisher.close()
        if self.previews is not None:
            self.previews.channel.close()
        if self.guard is not None:
            self.guard.close()
        self.context.term()
        self.store.close()
