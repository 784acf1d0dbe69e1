"""A role's line to the broker: session core, channel and clock put together. One thread owns it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import zmq

from protocol.channels import RoleChannel, ZmqRoleChannel
from protocol.codec import decode, encode
from protocol.cores import cores_aside
from protocol.errors import BrokerUnreachable, PeerFenced, PeerRefused, ProtocolError, SettingError
from protocol.logs import joined
from protocol.messages import AnyMessage, Envelope, Hello, Reject, Welcome
from protocol.security import open_key
from protocol.session import (
    ClientSession,
    Deliver,
    Lost,
    Opened,
    Refused,
    SessionEffect,
    SessionState,
    SessionTimes,
    Transmit,
)
from protocol.settings import require
from protocol.stream import Stream
from protocol.vitals import Vitals

log = logging.getLogger("autoassist.client")

NOTICE_EVERY_S = 5.0
NOTICE_AFTER_S = 1.5
"""Time without a way in after which it is said first."""


def new_incarnation() -> str:
    """Names this process start."""
    return uuid.uuid4().hex


@dataclass(frozen=True, kw_only=True)
class ConnectSettings:
    """How a role finds the broker."""

    broker: str = "tcp://127.0.0.1:5555"
    """Address of the broker."""

    keys: str | None = None
    """Key file of this role, or the directory of keys that holds it; for a broker with keys."""

    connect_timeout_s: float = 60.0
    """How long to look for a broker that does not answer before giving up."""

    reconnect_timeout_s: float = 600.0
    """How long to look for a broker that has answered before; a Boss trains meanwhile."""

    def __post_init__(self) -> None:
        require(self.reconnect_timeout_s > 0, "reconnect_timeout_s", self.reconnect_timeout_s, "must be positive")
        require(
            self.connect_timeout_s > 0,
            "connect_timeout_s",
            self.connect_timeout_s,
            "must be a positive number of seconds",
        )
        valid = self.broker.startswith(("tcp://", "ipc://", "inproc://"))
        if self.broker.startswith("tcp://"):  # ZeroMQ would take a port above 65535 modulo 65536
            host, _, port = self.broker.removeprefix("tcp://").rpartition(":")
            valid = bool(host) and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
        require(valid, "broker", self.broker, "give an address such as tcp://host:5555")


class RoleClient:
    """Sends and receives for one role; never blocks but in ``poll``.

    Raises SettingError for an address that is none, and for a Hello that no broker could read.
    """

    def __init__(
        self,
        hello: Hello,
        settings: ConnectSettings,
        *,
        times: SessionTimes | None = None,
        values_limit: int = 1 << 20,
        clock: Callable[[], float] = time.monotonic,
        channel: RoleChannel | None = None,
    ) -> None:
        _require_readable(hello)
        self.settings = settings
        self.clock = clock
        self._context = context_aside()
        try:
            key = open_key(settings.keys, hello.role) if settings.keys is not None else None
            self.channel = channel or ZmqRoleChannel(self._context, settings.broker, key)
        except SettingError:
            self._context.term()
            raise
        now = clock()
        self.session = ClientSession(
            hello, times or SessionTimes(), Stream(values_limit=values_limit), seeking_since=now, next_hello=now
        )
        self.welcome: Welcome | None = None
        self._next_notice = now + NOTICE_AFTER_S
        self._lost_at: float | None = None
        self.polled_at = now
        """When it was polled last: whoever owns it turns."""
        self._vitals = Vitals()
        self.beside: Callable[[], int | None] = lambda: None
        """The ID of another process of this role's, where it has one: its memory is the role's, too, its time is not,
        for it has what nobody else wants."""
        self._next_vitals = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the broker answers."""
        return self.session.state is SessionState.OPEN

    def send(self, message: AnyMessage) -> None:
        """Send, or keep until the broker answers; see the message's delivery class."""
        self._apply(self.session.submit(message, self.clock()), [])

    def ask(self) -> None:
        """Have the broker say at once what it has committed."""
        self._apply(self.session.beat(self.clock()), [])

    def poll(self, timeout_s: float, wake_fd: int | None = None) -> list[AnyMessage]:
        """Wait for at most ``timeout_s`` (less where the session needs attention) and return what has come.

        A Welcome is among the returned messages whenever a conversation opens or is taken up again.

        Raises PeerRefused where the broker refuses this role, BrokerUnreachable after ``connect_timeout_s``.
        """
        now = self.polled_at = self.clock()
        self.wait(max(0.0, min(timeout_s, self.session.next_deadline(now) - now)), wake_fd)
        delivered: list[AnyMessage] = []
        now = self.clock()
        while (frames := self.channel.receive()) is not None:
            try:
                effects = self.session.receive(decode(frames), now)
            except ProtocolError as error:
                log.warning("refused input from the broker: %s", error)
                continue
            self._apply(effects, delivered)
        self._refresh_vitals(now)
        self._apply(self.session.tick(now), delivered)
        self._give_up_or_notice(now)
        return delivered

    def wait(self, timeout_s: float, wake_fd: int | None = None) -> bool:
        """Wait for at most ``timeout_s``; whether there may be something to ``poll``, or ``wake_fd`` is readable."""
        if not isinstance(self.channel, ZmqRoleChannel):
            return True
        watched: list[tuple[Any, int]] = [(self.channel.socket, zmq.POLLIN)]
        if wake_fd is not None:
            watched.append((wake_fd, zmq.POLLIN))
        return bool(zmq.zmq_poll(watched, int(timeout_s * 1000 + 0.999)))

    def _refresh_vitals(self, now: float) -> None:
        if now >= self._next_vitals:
            self._next_vitals = now + self.session.times.heartbeat_s
            self._vitals.refresh()
            self.session.cpu_percent = self._vitals.cpu_percent
            self.session.rss_bytes = self._vitals.rss_bytes + _memory_of(self.beside())

    def _apply(self, effects: list[SessionEffect], delivered: list[AnyMessage]) -> None:
        for effect in effects:
            match effect:
                case Transmit(envelope):
                    if not self.channel.send(encode(envelope)) and envelope.seq:
                        log.debug("the line is full; %d waits for the next Hello", envelope.seq)
                case Deliver(message):
                    delivered.append(message)
                case Opened(welcome):
                    self._say_found(welcome)
                    self.welcome = welcome
                    delivered.append(welcome)
                case Lost(silent_s):
                    log.warning(
                        "no sign of the broker for %.1f s; looking for it at %s", silent_s, self.settings.broker
                    )
                    self._lost_at = self.clock() - silent_s
                    self.channel.reconnect()
                case Refused(reject):
                    is_past = reject.code in ("fenced", "elsewhere")
                    refused = (PeerFenced if is_past else PeerRefused)(_explain(reject))
                    refused.code = reject.code
                    raise refused

    def _say_found(self, welcome: Welcome) -> None:
        """Joining is the role's to say; that the broker is back after it was lost is said here."""
        joined(welcome.run_id)
        if self._lost_at is not None:
            log.info("the broker answers again after %.1f s", self.clock() - self._lost_at)
        self._lost_at = None

    def _give_up_or_notice(self, now: float) -> None:
        since = self.session.seeking_since
        if self.session.state is not SessionState.SEEKING or since is None:
            self._next_notice = now + NOTICE_AFTER_S
            return
        was_open = self.welcome is not None
        timeout_s = self.settings.reconnect_timeout_s if was_open else self.settings.connect_timeout_s
        if now - since > timeout_s:
            where = f"{self.settings.broker} for {timeout_s:g} s"
            if self.session.asked_to_wait and now - self.session.last_heard < self.session.times.silence_s:
                raise PeerRefused(f"no way in at {where}: {self.session.asked_to_wait}")
            option = "--reconnect-timeout-s" if was_open else "--connect-timeout-s"
            raise BrokerUnreachable(f"no broker answers at {where}; start one, correct --broker, or raise {option}")
        # Who takes a killed one's place is let in once the broker misses that one, which is nothing to report.
        is_early = self.session.is_taken and now - since < self.session.times.silence_s + NOTICE_AFTER_S
        if now >= self._next_notice and not is_early:
            self._next_notice = now + NOTICE_EVERY_S
            answers = now - self.session.last_heard < self.session.times.heartbeat_s
            why = self.session.asked_to_wait if answers and self.session.asked_to_wait else "no answer yet"
            log.info("waiting for the broker at %s: %s", self.settings.broker, why)

    @property
    def is_acknowledged(self) -> bool:
        """Whether the broker has committed everything that was sent."""
        return self.session.stream.is_acknowledged

    def drain(self, timeout_s: float) -> bool:
        """Wait until the broker has committed everything that was sent; False where it took too long."""
        deadline = self.clock() + timeout_s
        while not self.is_acknowledged:
            left = deadline - self.clock()
            if left <= 0:
                return False
            self.poll(left)
        return True

    def close(self) -> None:
        """Give the line back."""
        self.session.close()
        self.channel.close()
        self._context.term()


def _require_readable(hello: Hello) -> None:
    """What a broker would silently refuse is said here: a name too long, a number of NumPy's where an int must be."""
    try:
        decode(encode(Envelope(seq=0, span=1, ack=0, message=hello)))
    except (ProtocolError, TypeError) as error:
        detail = error.detail if isinstance(error, ProtocolError) else str(error)
        raise SettingError(f"{hello.name:.100}: {detail}; correct what this role says of itself") from None


def _explain(reject: Reject) -> str:
    return f"the broker refuses: {reject.reason}; {reject.remedy}" if reject.remedy else f"refused: {reject.reason}"


def context_aside() -> zmq.Context[zmq.Socket[bytes]]:
    """A context whose own threads keep aside, too, whoever makes it."""
    cores = cores_aside()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for core in cores:
        context.set(zmq.THREAD_AFFINITY_CPU_ADD, core)
    return context


def _memory_of(process_id: int | None) -> int:
    """Bytes; 0 where there is no such process, or no more."""
    if process_id is None:
        return 0
    with suppress(psutil.Error, OSError):
        return int(psutil.Process(process_id).memory_info().rss)
    return 0
