"""How frames travel: ZeroMQ between processes, queues in memory for tests, behind one interface.

A role has a ``RoleChannel`` (one peer: the broker); the broker has a ``BrokerChannel`` (many peers, each with the
routing ID of its connection). A new connection is a new routing ID, so the broker notices a reconnect by itself.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import zmq

from protocol.errors import PeerRefused, PortInUse, SettingError
from protocol.handshake import HandshakeWatch
from protocol.security import CURVE_OVERHEAD, SPEAKING, Key, secure_client, secure_server

log = logging.getLogger("autoassist.client")

Frames = list[bytes]

MAX_FRAME_BYTES = 1 << 24
"""One frame; libzmq hangs up on a longer one. Room for the largest array."""
BACKLOG = 4096
"""Connections that may wait to be accepted: a flood of them must not make a role wait for TCP's second try."""
HANDSHAKE_MS = 5000
"""Who does not speak ZeroMQ within this time is hung up on."""
LINGER_MS = 2000
KNOCK_AGAIN_S = 1.0
"""After a refusal in the middle of a run."""


class RoleChannel(Protocol):
    """A role's line to the broker."""

    def send(self, frames: Sequence[bytes]) -> bool:
        """Hand over frames without waiting; False where the line is full."""

    def receive(self) -> Frames | None:
        """The next frames, without waiting; None where there are none."""

    def reconnect(self) -> None:
        """Drop the line and make a new one; what was on its way may be lost."""

    def close(self) -> None:
        """Give everything back."""


class BrokerChannel(Protocol):
    """The broker's lines to all roles."""

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> bool:
        """Hand over frames without waiting; False where that line is gone or full."""

    def receive(self) -> tuple[bytes, Frames] | None:
        """The next (routing ID, frames), without waiting; None where there are none."""

    def close(self) -> None:
        """Give everything back."""


class ZmqRoleChannel:
    """DEALER socket. The context is the caller's; ``key`` is this role's, where the broker wants one."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: Key | None = None) -> None:
        self._context = context
        self._address = address
        self._key = key
        self._was_let_in = self._has_doubted = False
        self._knock_at: float | None = None
        self._watch: HandshakeWatch
        self.socket = self._connect()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + (CURVE_OVERHEAD if self._key is not None else 0))
        socket.setsockopt(zmq.IPV6, "[" in self._address)
        if self._key is not None:
            secure_client(socket, self._key)
        self._watch = HandshakeWatch(self._context, socket, self._key.name if self._key is not None else "")
        try:
            socket.connect(self._address)
        except zmq.ZMQError as error:
            self._watch.close()
            socket.close(linger=0)
            raise SettingError(f"broker={self._address}: {error}; expected tcp://host:port or ipc://path") from None
        return socket

    def send(self, frames: Sequence[bytes]) -> bool:
        """See RoleChannel."""
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) == 1)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Frames | None:
        """See RoleChannel. Raises PeerRefused where the first handshake fails for want of a key."""
        try:
            return self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            self._look_at_handshakes()
            return None

    def _look_at_handshakes(self) -> None:
        """A refusal ends a role that was never let in. Later it is an outage, since a stranger may have the address."""
        refusal = self._watch.refusal()
        self._was_let_in |= self._watch.succeeded
        if refusal and not self._was_let_in:
            raise PeerRefused(f"no way in at {self._address}: {refusal}")
        if (doubt := self._watch.doubt) and not self._has_doubted:
            log.warning("%s: %s", self._address, doubt)
        self._has_doubted = bool(doubt)
        now = time.monotonic()
        if refusal:
            log.warning("turned away at %s: %s", self._address, refusal)
            self._knock_at = now + KNOCK_AGAIN_S
        elif self._knock_at is not None and now >= self._knock_at:
            self.reconnect()

    def reconnect(self) -> None:
        """See RoleChannel."""
        self._knock_at = None
        self._watch.close()
        self.socket.close(linger=0)
        self.socket = self._connect()

    def close(self) -> None:
        """See RoleChannel."""
        self._watch.close()
        self.socket.close()


class ZmqBrokerChannel:
    """ROUTER socket. The context is the caller's; with the broker's ``key`` a ZAP handler must answer in it.

    Raises PortInUse or SettingError where the address cannot be bound.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: Key | None = None, domain: str = SPEAKING
    ) -> None:
        self.speaker = ""
        """Public key of who sent what was received last; "" where no keys are used."""
        self._has_key = key is not None
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.LINGER, LINGER_MS)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + (CURVE_OVERHEAD if key is not None else 0))
        self.socket.setsockopt(zmq.BACKLOG, BACKLOG)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        if key is not None:
            secure_server(self.socket, key, domain)
        bind(self.socket, address)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> bool:
        """See BrokerChannel."""
        try:
            self.socket.send_multipart([routing_id, *frames], zmq.NOBLOCK, copy=len(frames) == 1)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def receive(self) -> tuple[bytes, Frames] | None:
        """See BrokerChannel."""
        try:
            if self._has_key:
                first = self.socket.recv(zmq.NOBLOCK, copy=False)
                self.speaker = str(first.get("User-Id"))  # the ZAP handler's word for this connection
                return first.bytes, self.socket.recv_multipart(zmq.NOBLOCK)
            routing_id, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return routing_id, frames

    def close(self) -> None:
        """See BrokerChannel."""
        self.socket.close()


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind, or close the socket and raise PortInUse or SettingError."""
    socket.setsockopt(zmq.IPV6, "[" in address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise PortInUse(
                f"{address} is in use; choose another --port or stop the process that listens there"
            ) from None
        raise SettingError(f"address {address}: {error}; give an address of this host") from None


class MemoryHub:
    """In-memory stand-in for the broker's socket; ``connect`` gives role channels. For tests and users' own tests."""

    def __init__(self) -> None:
        self.inbox: deque[tuple[bytes, Frames]] = deque()
        self.lines: dict[bytes, deque[Frames]] = {}
        self._connections = 0

    def connect(self) -> MemoryRoleChannel:
        """A new line to this hub."""
        return MemoryRoleChannel(self)

    def open_line(self) -> bytes:
        """Routing ID of a new connection."""
        self._connections += 1
        routing_id = self._connections.to_bytes(5, "big")
        self.lines[routing_id] = deque()
        return routing_id

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> bool:
        """See BrokerChannel."""
        if routing_id not in self.lines:
            return False
        self.lines[routing_id].append(list(frames))
        return True

    def receive(self) -> tuple[bytes, Frames] | None:
        """See BrokerChannel."""
        return self.inbox.popleft() if self.inbox else None

    def close(self) -> None:
        """See BrokerChannel."""
        self.lines.clear()


class MemoryRoleChannel:
    """A role's line to a MemoryHub."""

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub
        self.routing_id = hub.open_line()

    def send(self, frames: Sequence[bytes]) -> bool:
        """See RoleChannel."""
        self._hub.inbox.append((self.routing_id, list(frames)))
        return True

    def receive(self) -> Frames | None:
        """See RoleChannel."""
        line = self._hub.lines.get(self.routing_id)
        return line.popleft() if line else None

    def reconnect(self) -> None:
        """See RoleChannel."""
        self._hub.lines.pop(self.routing_id, None)
        self.routing_id = self._hub.open_line()

    def close(self) -> None:
        """See RoleChannel."""
        self._hub.lines.pop(self.routing_id, None)
