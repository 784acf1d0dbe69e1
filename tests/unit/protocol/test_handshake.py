"""What a role hears of a handshake that fails, with a listener that does exactly one thing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import zmq

from protocol.handshake import TRIES, HandshakeWatch
from protocol.security import Key, secure_client

DEADLINE_S = 20.0


def greeting(mechanism: bytes) -> bytes:
    """ZMTP 3.0, as a server."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + b"\x01" + bytes(31)


@contextmanager
def listener(says: bytes) -> Iterator[str]:
    """Says one thing on each connection, keeps it where there was anything to say, and hangs up otherwise."""
    kept: list[socket.socket] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                line.sendall(says)
                if says:
                    kept.append(line)
                else:
                    line.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE_S)
            for line in kept:
                line.close()


@contextmanager
def watched(address: str, key: Key | None) -> Iterator[HandshakeWatch]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, 5)
        if key is not None:
            secure_client(dealer, key)
        with closing(HandshakeWatch(context, dealer, key.name if key is not None else "")) as watch:
            dealer.connect(address)
            yield watch


def until(watch: HandshakeWatch, look: Callable[[], str]) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        watch.events.poll(100)
    raise AssertionError("nothing was said")


KEY = Key.make("boss", Key.make("broker").public)


@pytest.mark.parametrize(
    ("mechanism", "key", "says"),
    [
        (b"CURVE", None, "the broker wants a key; give --keys"),
        (b"NULL", KEY, "was started without keys; start it with"),
    ],
    ids=["role without", "broker without"],
)
def test_one_side_without_keys_is_named(mechanism: bytes, key: Key | None, says: str) -> None:
    with listener(greeting(mechanism)) as address, watched(address, key) as watch:
        assert says in until(watch, watch.refusal) and not watch.succeeded and not watch.doubt


@pytest.mark.parametrize(("key", "says"), [(None, "one that wants a key (--keys)"), (KEY, "that the key boss names")])
def test_who_hangs_up_time_and_again_is_doubted_and_not_taken_for_a_refusal(key: Key | None, says: str) -> None:
    refusals = []
    with listener(b"") as address, watched(address, key) as watch:

        def look() -> str:
            refusals.append(watch.refusal())
            return watch.doubt

        assert says in until(watch, look)
    assert TRIES > 1 and not any(refusals)
