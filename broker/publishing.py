"""The socket on which a broker tells its statistics to whoever listens."""

from __future__ import annotations

import zmq

from protocol.channels import bind
from protocol.security import STATISTICS, Key, secure_server

LAST_STATISTICS_MS = 200
"""Most time that a slow listener has, once the broker ends, to take over the last ones: they say how the run ended."""
MOST_WAITING = 8
"""Statistics that wait for a slow listener; newer ones are dropped then."""


def publisher(context: zmq.Context[zmq.Socket[bytes]], address: str, key: Key | None) -> zmq.Socket[bytes]:
    """Bound at ``address``; raises PortInUse or SettingError where it cannot be had."""
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.LINGER, LAST_STATISTICS_MS)
    socket.setsockopt(zmq.SNDHWM, MOST_WAITING)
    if key is not None:
        secure_server(socket, key, STATISTICS)
    bind(socket, address)
    return socket
