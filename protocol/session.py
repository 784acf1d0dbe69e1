"""A role's conversation with the broker, as a state machine without I/O.

    SEEKING ── Welcome ──> OPEN ── silence, gap, "resume" ──> SEEKING ── …
       │                     │
       └── Reject ──> REFUSED└── close() ──> CLOSED

Events go in with the time; effects come out. Nothing here reads a clock or touches a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import msgspec

from protocol.message_base import Delivery
from protocol.messages import AnyMessage, Envelope, Goodbye, Heartbeat, Hello, Reject, Welcome
from protocol.stream import Stream, Verdict


class SessionState(Enum):
    """See the picture at the top of the module."""

    SEEKING = "seeking"
    OPEN = "open"
    REFUSED = "refused"
    CLOSED = "closed"


class Transmit(msgspec.Struct, frozen=True):
    """Effect: put this envelope on the wire."""

    envelope: Envelope


class Deliver(msgspec.Struct, frozen=True):
    """Effect: hand this message to the role."""

    message: AnyMessage


class Opened(msgspec.Struct, frozen=True):
    """Effect: the broker answers. ``fresh`` is true where it counts its stream from zero."""

    welcome: Welcome
    fresh: bool


class Lost(msgspec.Struct, frozen=True):
    """Effect: the broker has been silent for too long; drop the connection and make a new one."""

    silent_s: float


class Refused(msgspec.Struct, frozen=True):
    """Effect: the broker refuses this role for good."""

    reject: Reject


SessionEffect = Transmit | Deliver | Opened | Lost | Refused


@dataclass(frozen=True, kw_only=True)
class SessionTimes:
    """Clocks of a conversation."""

    heartbeat_s: float = 1.0
    """Between two signs of life, both ways."""

    silence_s: float = 3.0
    """Silence after which the peer counts as lost: three heartbeats."""

    hello_s: float = 0.2
    """Between two Hellos while nobody answers."""


@dataclass(slots=True)
class ClientSession:
    """A role's end of the conversation."""

    hello: Hello
    times: SessionTimes = field(default_factory=SessionTimes)
    stream: Stream = field(default_factory=Stream)
    state: SessionState = SessionState.SEEKING
    broker_stream: str = ""
    seeking_since: float | None = None
    last_heard: float = 0.0
    last_beat: float = 0.0
    """Heartbeats keep their pace whatever else is said: unnumbered messages would hide a lost tail."""
    next_hello: float = 0.0
    asked_to_wait: str = ""
    is_taken: bool = False
    """Whether another process has, or had until a moment ago, this role's name."""
    has_said_goodbye: bool = False
    cpu_percent: float = 0.0
    rss_bytes: int = 0

    def submit(self, message: AnyMessage, now: float) -> list[SessionEffect]:
        """Send a message, or keep it until the broker answers; an unnumbered one is lost while nobody answers."""
        if self.state is SessionState.CLOSED or self.state is SessionState.REFUSED:
            return []
        if self.state is not SessionState.OPEN and message.delivery is Delivery.LATEST:
            return []
        del now  # heartbeats keep a pace of their own
        self.has_said_goodbye |= isinstance(message, Goodbye)
        envelope = self.stream.number(message)
        return [Transmit(envelope)] if self.state is SessionState.OPEN else []

    def tick(self, now: float) -> list[SessionEffect]:
        """Time has passed: say Hello, say Heartbeat, or notice silence."""
        if self.state is SessionState.OPEN:
            if now - self.last_heard >= self.times.silence_s:
                silent_s = now - self.last_heard
                return [Lost(silent_s), *self._seek(now)]
            return self.beat(now) if now - self.last_beat >= self.times.heartbeat_s else []
        if self.state is SessionState.SEEKING and now >= self.next_hello:
            return self._seek(now)
        return []

    def beat(self, now: float) -> list[SessionEffect]:
        """Say Heartbeat now; the broker's answer says what it has committed."""
        if self.state is not SessionState.OPEN:
            return []
        self.last_beat = now
        beat = Heartbeat(seq=self.stream.last_sent, cpu_percent=self.cpu_percent, rss_bytes=self.rss_bytes)
        return [Transmit(self.stream.number(beat))]

    def next_deadline(self, now: float) -> float:
        """Latest time at which ``tick`` must be called."""
        if self.state is SessionState.OPEN:
            return min(self.last_heard + self.times.silence_s, self.last_beat + self.times.heartbeat_s)
        return self.next_hello if self.state is SessionState.SEEKING else now + self.times.heartbeat_s

    def receive(self, envelope: Envelope, now: float) -> list[SessionEffect]:
        """An envelope has come.

        Raises ProtocolError where it breaks the rules of the stream.
        """
        if self.state in (SessionState.CLOSED, SessionState.REFUSED):
            return []
        self.last_heard = now
        match envelope.message:
            case Welcome() as welcome:
                return self._welcomed(welcome, envelope.ack, now)
            case Reject(code="resume"):
                if self.has_said_goodbye and self.stream.is_acknowledged:
                    return []  # a sign of life came after the Goodbye: another Hello would join, and be missed
                return self._seek(now) if self.state is SessionState.OPEN else []
            case Reject(code="wait", reason=reason):
                self.asked_to_wait, self.seeking_since = reason, now
                return []
            case Reject(code="elsewhere") as reject if self.hello.role == "assistant":
                self.state = SessionState.REFUSED  # it serves any run, but what it has learned is of another one
                return [Refused(reject)]
            case Reject(code="taken" | "elsewhere" as code, reason=reason, remedy=remedy):
                self.asked_to_wait = f"{reason}; {remedy}"  # and the search for a way in goes on being timed
                self.is_taken = code == "taken"
                return []
            case Reject() as reject:
                self.state = SessionState.REFUSED
                return [Refused(reject)]
        if self.state is not SessionState.OPEN:
            return []
        self.stream.acknowledge(envelope.ack)
        if isinstance(envelope.message, Heartbeat):
            return self._seek(now) if envelope.message.seq > self.stream.received else []
        verdict = self.stream.judge(envelope)
        if verdict is Verdict.GAP:
            return self._seek(now)
        if verdict is Verdict.DUPLICATE:
            return []
        self.stream.commit()
        return [Deliver(envelope.message)]

    def close(self) -> None:
        """Nothing is sent or delivered any more."""
        self.state = SessionState.CLOSED

    def update_hello(self, **changes: object) -> None:
        """Change what the next Hello says, the position in the loss log for one."""
        self.hello = msgspec.structs.replace(self.hello, **changes)

    def _seek(self, now: float) -> list[SessionEffect]:
        if self.state is not SessionState.SEEKING or self.seeking_since is None:
            self.seeking_since = now
        self.state = SessionState.SEEKING
        if now < self.next_hello:
            return []  # one was said a moment ago: a broker that answers each with "resume" must not start a storm
        self.next_hello = now + self.times.hello_s
        hello = msgspec.structs.replace(self.hello, stream=self.broker_stream)
        return [Transmit(Envelope(seq=0, span=1, ack=self.stream.received, message=hello))]

    def _welcomed(self, welcome: Welcome, ack: int, now: float) -> list[SessionEffect]:
        fresh = welcome.stream != self.broker_stream
        if self.state is SessionState.OPEN and not fresh:
            return []
        self.stream.acknowledge(ack)
        if fresh:
            self.stream.received = self.stream.committed = 0
        self.broker_stream = welcome.stream
        self.update_hello(run_id=welcome.run_id)
        self.state, self.seeking_since, self.asked_to_wait = SessionState.OPEN, None, ""
        self.is_taken = False
        self.last_beat = now
        again = [Transmit(e) for e in self.stream.unacknowledged()]
        return [Opened(welcome, fresh), *again]
