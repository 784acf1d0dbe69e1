"""The broker's ends of all conversations: who is on which line, what each has committed. No I/O, no clock."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from broker.effects import Admit, Event, HelloReceived, MessageReceived, PeerLost, Refuse
from broker.rows import RunRow
from broker.strangers import Strangers
from protocol.errors import ProtocolError
from protocol.messages import PROTOCOL_VERSION, AnyMessage, Envelope, Heartbeat, Hello, Reject, Welcome
from protocol.session import SessionTimes
from protocol.stream import Stream, Verdict

Outgoing = tuple[bytes, Envelope]
STRANGERS = "strangers"


@dataclass(slots=True)
class Conversation:
    """The broker's end of one role's conversation."""

    name: str
    incarnation: str
    routing_id: bytes  # b"" while there is no line
    stream_id: str
    stream: Stream
    last_heard: float
    last_said: float
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    previews: bool = False
    asks: bool = False
    """Whether it has given a sign of life since it was answered last."""


def welcome_to(known: Conversation, run: RunRow, *, position: int = 0, index: int = 0) -> Welcome:
    """What a role hears that is let in; an Assistant's ``position`` and ``index`` are among the others."""
    return Welcome(
        run_id=run.run_id,
        stream=known.stream_id,
        settings=run.settings,
        position=position,
        index=index,
        generation=run.generation,
        dataset_id=run.dataset_id,
        n=run.n,
        lengths=run.lengths_kept,
    )


@dataclass(slots=True)
class Hub:
    """Envelopes in, core events out; core effects in, envelopes out."""

    times: SessionTimes = field(default_factory=SessionTimes)
    by_name: dict[str, Conversation] = field(default_factory=dict)
    by_line: dict[bytes, Conversation] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """Refused input by cause."""
    refused_from: dict[str, int] = field(default_factory=dict)
    """Refused input by the role that it came from; those who have said no Hello count together."""
    strangers: Strangers = field(init=False)

    def __post_init__(self) -> None:
        self.strangers = Strangers(self.times.silence_s)

    def count_refused(self, cause: str, line: bytes = b"", count: int = 1) -> None:
        """So many more pieces of bad input of this cause, from whoever is on this line."""
        self.refused[cause] = self.refused.get(cause, 0) + count
        name = self.by_line[line].name if line in self.by_line else STRANGERS
        self.refused_from[name] = self.refused_from.get(name, 0) + count

    def count_strangers(self, now: float) -> None:
        """Who has spoken without a Hello, and is not to be waited for any longer, is none of this run's roles."""
        for count in self.strangers.overdue(now):
            self.count_refused("no_hello", count=count)

    def receive(self, line: bytes, envelope: Envelope, now: float) -> tuple[list[Event], list[Outgoing]]:
        """What an envelope on a line means to the core, and what is answered at once."""
        if isinstance(envelope.message, Hello):
            return [self._hello(line, envelope.message, envelope.ack, now)], []
        conversation = self.by_line.get(line)
        if conversation is None:
            self.strangers.heard(line, now)
            return [], [(line, _bare(Reject(code="resume", reason="say Hello first")))]
        conversation.last_heard = now
        try:
            conversation.stream.acknowledge(envelope.ack)
            verdict = conversation.stream.judge(envelope)
        except ProtocolError as error:
            self.count_refused(error.cause, line)
            return [], []
        if isinstance(envelope.message, Heartbeat):
            conversation.cpu_percent = envelope.message.cpu_percent
            conversation.rss_bytes = envelope.message.rss_bytes
            conversation.asks = True
            lost_tail = envelope.message.seq > conversation.stream.received
            return [], [self._resume(line)] if lost_tail else []
        match verdict:
            case Verdict.DUPLICATE:
                self.count_refused("duplicate", line)
                return [], []
            case Verdict.GAP:
                return [], [self._resume(line)]
        return [MessageReceived(conversation.name, envelope.message, envelope.seq)], []

    @staticmethod
    def _resume(line: bytes) -> Outgoing:
        return line, _bare(Reject(code="resume", reason="messages are missing"))

    def _hello(self, line: bytes, hello: Hello, ack: int, now: float) -> HelloReceived:
        known = self.by_name.get(hello.name)
        same = known is not None and known.incarnation == hello.incarnation
        alive = known is not None and not same and now - known.last_heard < self.times.silence_s
        fresh = self._to_go_on(line, hello, ack) is None
        return HelloReceived(hello, fresh=fresh, alive_elsewhere=alive)

    def _to_go_on(self, line: bytes, hello: Hello, ack: int) -> Conversation | None:
        """The conversation that a Hello takes up again; None where a new stream must begin.

        A Hello that is repeated on the same line, before its Welcome was heard, names no stream or an older one; it
        takes up the stream that the first one began. What the role lacks must all still be here.
        """
        known = self.by_name.get(hello.name)
        if known is None or known.incarnation != hello.incarnation:
            return None
        heard = ack if hello.stream == known.stream_id else 0
        repeated = hello.stream == known.stream_id or line == known.routing_id
        return known if repeated and known.stream.can_go_on_after(heard) else None

    def admit(self, line: bytes, envelope: Envelope, effect: Admit, run: RunRow, *, now: float) -> list[Outgoing]:
        """The core accepts the Hello in ``envelope``: Welcome, then what the role has not committed."""
        hello, ack = envelope.message, envelope.ack
        assert isinstance(hello, Hello)
        known = self._to_go_on(line, hello, ack)
        self.forget(hello.name)
        if known is None:
            stream = Stream(received=effect.committed, committed=effect.committed)
            known = Conversation(hello.name, hello.incarnation, line, uuid.uuid4().hex, stream, now, now)
        elif hello.stream == known.stream_id:
            known.stream.acknowledge(ack)
        self.strangers.known(line)
        known.previews = hello.previews and hello.role == "assistant"
        known.routing_id, known.last_heard, known.last_said = line, now, now
        self.by_name[hello.name] = self.by_line[line] = known
        welcome = welcome_to(known, run, position=effect.position, index=effect.index)
        first = Envelope(seq=0, span=1, ack=known.stream.committed, message=welcome)
        return [(line, first), *((line, e) for e in known.stream.unacknowledged())]

    def explain_unreadable(self, line: bytes, error: ProtocolError) -> list[Outgoing]:
        """A stranger's first words make no message: say so, since it may be a role of another version."""
        if line in self.by_line:
            return []  # one who was let in is not cut off for it: the next heartbeat shows what is missing
        return [(line, _bare(Reject(code="malformed", reason=str(error), remedy=f"speak version {PROTOCOL_VERSION}")))]

    def refuse(self, line: bytes, effect: Refuse) -> Outgoing:
        """The core does not accept a Hello."""
        if effect.code in ("wait", "taken", "fenced"):  # it is of this run, and comes too early or too late
            self.strangers.known(line)
        return line, _bare(Reject(code=effect.code, reason=effect.reason, remedy=effect.remedy))

    def send(self, name: str, message: AnyMessage, now: float) -> list[Outgoing]:
        """Number a message for a role; nothing where the role is gone (it will be told again when it returns)."""
        conversation = self.by_name.get(name)
        if conversation is None:
            return []
        conversation.last_said = now
        envelope = conversation.stream.number(message)
        return [(conversation.routing_id, envelope)] if conversation.routing_id else []

    def turn_away(self, line: bytes, effect: Refuse) -> list[Outgoing]:
        """Whoever is on this line has not the key for what it says: tell it, and tell it nothing else."""
        self.count_refused(effect.code, line)
        self.lose_line(line)
        return [self.refuse(line, effect)]

    def lose_line(self, line: bytes) -> None:
        """A line is full or gone: nothing may follow on it before a new Hello, or what is missing goes unnoticed."""
        conversation = self.by_line.pop(line, None)
        if conversation is not None:
            conversation.routing_id = b""

    def emptied(self) -> Hub:
        """Nobody is there any more; what was refused stays counted."""
        hub = Hub(self.times, refused=self.refused, refused_from=self.refused_from)
        hub.strangers = self.strangers
        return hub

    def commit(self) -> None:
        """All that was handed to the core is in the store: acknowledge it from now on."""
        for conversation in self.by_name.values():
            conversation.stream.commit()

    def answers(self, now: float) -> list[Outgoing]:
        """A sign of life to each role that has given one: it says what is committed, which the role may wait for."""
        beats: list[Outgoing] = []
        for conversation in self.by_name.values():
            if conversation.asks:
                conversation.asks = False
                beats += self.send(conversation.name, Heartbeat(seq=conversation.stream.last_sent), now)
        return beats

    def tick(self, now: float) -> tuple[list[Event], list[Outgoing]]:
        """Notice silent roles and strangers; give signs of life."""
        self.count_strangers(now)
        lost: list[Event] = []
        beats: list[Outgoing] = []
        for conversation in list(self.by_name.values()):
            if now - conversation.last_heard >= self.times.silence_s:
                self.forget(conversation.name)
                lost.append(PeerLost(conversation.name))
            elif now - conversation.last_said >= self.times.heartbeat_s:
                beats += self.send(conversation.name, Heartbeat(seq=conversation.stream.last_sent), now)
        return lost, beats

    def forget(self, name: str) -> None:
        """A role is gone."""
        conversation = self.by_name.pop(name, None)
        if conversation is not None and self.by_line.get(conversation.routing_id) is conversation:
            del self.by_line[conversation.routing_id]
            self.strangers.gone(conversation.routing_id)

    def next_deadline(self) -> float | None:
        """When ``tick`` is due."""
        return min(
            (
                min(c.last_heard + self.times.silence_s, c.last_said + self.times.heartbeat_s)
                for c in self.by_name.values()
            ),
            default=None,
        )


def _bare(message: AnyMessage) -> Envelope:
    return Envelope(seq=0, span=1, ack=0, message=message)
