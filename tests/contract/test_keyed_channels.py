"""The guard and the two channels that it lets together, without a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from autoassist.keys_command import make_keys
from broker.guard import Guard
from protocol import channels
from protocol.channels import MAX_FRAME_BYTES, ZmqBrokerChannel, ZmqRoleChannel
from protocol.security import open_key, read_allow_list, write_allow_list

DEADLINE_S = 20.0
T = TypeVar("T")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory of keys."""
    make_keys(tmp_path)
    return tmp_path


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Ends with all its sockets."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_an_allow_list_that_cannot_be_read_stays_as_it_was(
    context: zmq.Context[zmq.Socket[bytes]], keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    public = open_key(keys, "boss").public
    with closing(Guard(context, keys)) as guard:
        (keys / "allowed.txt").write_text("half a li")
        assert guard.answer() == [] and "the allow-list stays as it was" in caplog.text
        assert guard.refusal_of(public, "boss-0", "boss") is None
        write_allow_list(keys / "allowed.txt", [])
        assert guard.answer() == []
        refused = guard.refusal_of(public, "boss-0", "boss")
    assert refused is not None and refused.code == "key"


def until(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
    raise AssertionError(f"never {what}")


@contextmanager
def three_ends(
    context: zmq.Context[zmq.Socket[bytes]], keys: Path
) -> Iterator[tuple[Guard, ZmqBrokerChannel, ZmqRoleChannel]]:
    """The broker's guard and channel, and a Boss's channel."""
    with (
        closing(Guard(context, keys)) as guard,
        closing(ZmqBrokerChannel(context, "tcp://127.0.0.1:0", guard.key)) as broker,
        closing(ZmqRoleChannel(context, broker.address, open_key(keys, "boss"))) as role,
    ):
        yield guard, broker, role


def test_the_largest_frame_passes_encrypted_and_names_its_speaker(
    context: zmq.Context[zmq.Socket[bytes]], keys: Path
) -> None:
    frames = [b"head", bytes(MAX_FRAME_BYTES)]
    with three_ends(context, keys) as (guard, broker, role):
        until(lambda: guard.answer() or role.send(frames) or None, "on the line")
        line, heard = until(lambda: broker.receive() if broker.socket.poll(10) else None, "heard")
        assert heard == frames and broker.speaker == open_key(keys, "boss").public
        assert broker.send(line, frames)
        assert until(lambda: role.receive() if role.socket.poll(10) else None, "answered") == frames


def test_a_refusal_in_the_middle_of_a_run_is_an_outage_and_the_role_comes_back(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever takes the broker's address meanwhile cannot end a Boss by refusing it."""
    monkeypatch.setattr(channels, "KNOCK_AGAIN_S", 0.05)
    allowed = list(read_allow_list(keys / "allowed.txt").values())
    with three_ends(context, keys) as (guard, broker, role):

        def arrives() -> tuple[bytes, list[bytes]] | None:
            guard.answer()
            role.send([b"here"])
            role.receive()
            return broker.receive()

        def turned_away() -> bool | None:
            guard.answer()
            assert role.receive() is None
            return "turned away" in caplog.text or None

        until(arrives, "let in")
        write_allow_list(keys / "allowed.txt", [one for one in allowed if one.name != "boss"])
        role.reconnect()
        until(turned_away, "turned away")
        write_allow_list(keys / "allowed.txt", allowed)
        while broker.receive() is not None:
            pass  # what was said before
        until(arrives, "let in again")
