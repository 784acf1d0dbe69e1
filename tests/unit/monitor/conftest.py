"""In a broker's place: whoever publishes statistics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq


@pytest.fixture
def publisher() -> Iterator[zmq.Socket[bytes]]:
    """A socket that publishes on a free port."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind("tcp://127.0.0.1:*")
        yield socket
