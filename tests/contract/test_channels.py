"""What every channel promises, ZeroMQ's and the one in memory alike: users' tests on the latter prove something."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from protocol.channels import (
    BrokerChannel,
    Frames,
    MemoryHub,
    RoleChannel,
    ZmqBrokerChannel,
    ZmqRoleChannel,
)
from protocol.errors import PortInUse, SettingError

DEADLINE_S = 20.0
T = TypeVar("T")


def until(attempt: Callable[[], T | None], wait: Callable[[], None], complaint: str) -> T:
    """What ``attempt`` gives once it gives something."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if (found := attempt()) is not None:
            return found
        wait()
    raise AssertionError(f"{complaint} within {DEADLINE_S} s")


@dataclass
class Ends:
    """A broker's end, and a way to make role's ends."""

    broker: BrokerChannel
    connect: Callable[[], RoleChannel]
    wait: Callable[[RoleChannel | BrokerChannel], None]
    """Until something may have come, or for a short while."""

    def receive(self, end: RoleChannel | BrokerChannel) -> tuple[bytes, Frames] | Frames:
        """The next thing; fails after the deadline."""
        return until(end.receive, lambda: self.wait(end), "nothing came")

    def from_role(self) -> tuple[bytes, Frames]:
        received = self.receive(self.broker)
        assert isinstance(received, tuple)
        return received

    def send(self, role: RoleChannel, frames: list[bytes]) -> None:
        """As soon as the line is up."""
        until(lambda: role.send(frames) or None, lambda: self.wait(role), "the line was never up")

    def find_gone(self, line: bytes) -> None:
        """The broker's end learns that a line is gone."""
        gone = until(
            lambda: self.broker.send(line, [b"late"]) is False or None, lambda: self.wait(self.broker), "alive"
        )
        assert gone


def poll(end: RoleChannel | BrokerChannel) -> None:
    assert isinstance(end, (ZmqBrokerChannel, ZmqRoleChannel))
    end.socket.poll(10)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Closed at the end; a socket that a test forgot would hang here, so it is destroyed."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture(params=["tcp", "ipc", "memory"])
def ends(request: pytest.FixtureRequest, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Ends]:
    """One broker's end, and the role's ends that the test makes."""
    roles: list[RoleChannel] = []

    def keep(role: RoleChannel) -> RoleChannel:
        roles.append(role)
        return role

    if request.param == "memory":
        hub = MemoryHub()
        yield Ends(hub, lambda: keep(hub.connect()), lambda _: None)
        broker: BrokerChannel = hub
    else:
        address = f"ipc://{tmp_path}/broker" if request.param == "ipc" else "tcp://127.0.0.1:0"
        channel = ZmqBrokerChannel(context, address)
        yield Ends(channel, lambda: keep(ZmqRoleChannel(context, channel.address)), poll)
        broker = channel
    for role in roles:
        role.close()
    broker.close()


def test_frames_travel_both_ways(ends: Ends) -> None:
    role = ends.connect()
    ends.send(role, [b"from the role"])
    line, frames = ends.from_role()
    assert frames == [b"from the role"]
    assert ends.broker.send(line, [b"from the broker"])
    assert ends.receive(role) == [b"from the broker"]


def test_nothing_is_there_before_something_was_sent(ends: Ends) -> None:
    role = ends.connect()
    assert role.receive() is None and ends.broker.receive() is None


def test_order_is_kept(ends: Ends) -> None:
    role = ends.connect()
    numbers = [[str(n).encode()] for n in range(200)]
    for frames in numbers:
        ends.send(role, frames)
    received = [ends.from_role() for _ in numbers]
    assert [frames for _, frames in received] == numbers
    line = received[0][0]
    for frames in numbers:
        assert ends.broker.send(line, frames)
    assert [ends.receive(role) for _ in numbers] == numbers


@pytest.mark.parametrize(
    "frames",
    [[b""], [b"", b"", b""], [b"a", b"", b"c"], [b"head", bytes(range(256)) * 4096, b"tail"]],
    ids=["empty", "three empty", "a hole", "a megabyte"],
)
def test_a_message_of_several_frames_arrives_whole(ends: Ends, frames: list[bytes]) -> None:
    role = ends.connect()
    ends.send(role, frames)
    line, received = ends.from_role()
    assert received == frames
    assert ends.broker.send(line, frames)
    assert ends.receive(role) == frames


def test_what_was_sent_may_be_changed_afterwards_by_nobody(ends: Ends) -> None:
    """The list of frames is the sender's to use again."""
    role = ends.connect()
    frames = [b"one"]
    ends.send(role, frames)
    frames.append(b"two")
    line, received = ends.from_role()
    assert received == [b"one"]
    assert ends.broker.send(line, frames)
    frames.append(b"three")
    assert ends.receive(role) == [b"one", b"two"]


def test_each_role_has_a_line_of_its_own(ends: Ends) -> None:
    first, second = ends.connect(), ends.connect()
    ends.send(first, [b"first"])
    ends.send(second, [b"second"])
    lines = {frames[0]: line for line, frames in (ends.from_role(), ends.from_role())}
    assert lines[b"first"] != lines[b"second"]
    assert ends.broker.send(lines[b"second"], [b"for the second"])
    assert ends.receive(second) == [b"for the second"]
    assert first.receive() is None


def test_a_line_that_nobody_has_is_no_error(ends: Ends) -> None:
    assert ends.broker.send(b"\x00nobody", [b"lost"]) is False


def test_an_empty_line_is_nobody_s(ends: Ends) -> None:
    """The hub keeps b"" where a role has no line."""
    ends.connect()
    assert ends.broker.send(b"", [b"lost"]) is False


def test_a_reconnect_is_a_new_line_and_the_old_one_is_gone(ends: Ends) -> None:
    role = ends.connect()
    ends.send(role, [b"before"])
    before, _ = ends.from_role()
    role.reconnect()
    ends.send(role, [b"after"])
    after, frames = ends.from_role()
    assert frames == [b"after"] and after != before
    ends.find_gone(before)
    assert ends.broker.send(after, [b"new"])
    assert ends.receive(role) == [b"new"], "nothing of the old line comes through"


def test_a_closed_role_s_line_is_gone(ends: Ends) -> None:
    role = ends.connect()
    ends.send(role, [b"hello"])
    line, _ = ends.from_role()
    role.close()
    ends.find_gone(line)


def test_many_roles_are_served(ends: Ends) -> None:
    roles = {str(n).encode(): ends.connect() for n in range(20)}
    for name, role in roles.items():
        ends.send(role, [name])
    for _ in roles:
        line, (name,) = ends.from_role()
        assert ends.broker.send(line, [b"for " + name])
    assert {name: ends.receive(role) for name, role in roles.items()} == {name: [b"for " + name] for name in roles}


# ZeroMQ alone


def test_a_role_without_a_broker_says_that_the_line_is_not_up(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Nothing queues for a broker that is not there: the session keeps what must not be lost, and only that."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        role = ZmqRoleChannel(context, f"tcp://127.0.0.1:{unused.getsockname()[1]}")
        assert role.send([b"hello"]) is False
        role.close()


def test_a_role_finds_a_broker_that_starts_later(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/late"
    role = ZmqRoleChannel(context, address)
    assert role.send([b"early"]) is False
    broker = ZmqBrokerChannel(context, address)
    ends = Ends(broker, lambda: role, poll)
    ends.send(role, [b"late"])
    assert ends.from_role()[1] == [b"late"]
    role.close()
    broker.close()


def test_a_port_in_use_is_named_with_the_remedy(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortInUse, match=f"{address} is in use; choose another --port or stop the process"):
            ZmqBrokerChannel(context, address)


def test_a_second_broker_on_the_port_is_refused_and_the_first_goes_on(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    first = ZmqBrokerChannel(context, "tcp://127.0.0.1:0")
    with pytest.raises(PortInUse):
        ZmqBrokerChannel(context, first.address)
    role = ZmqRoleChannel(context, first.address)
    ends = Ends(first, lambda: role, poll)
    ends.send(role, [b"still here"])
    assert ends.from_role()[1] == [b"still here"]
    role.close()
    first.close()


def test_a_port_is_free_again_at_once(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    first = ZmqBrokerChannel(context, "tcp://127.0.0.1:0")
    address = first.address
    first.close()

    def again() -> ZmqBrokerChannel | None:
        try:
            return ZmqBrokerChannel(context, address)
        except PortInUse:
            return None

    until(again, lambda: None, "the port stayed in use").close()


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://127.0.0.1", "tcp://nohost.invalid:1", "gopher://x:1"])
def test_an_address_that_cannot_be_bound_is_a_setting_error(
    context: zmq.Context[zmq.Socket[bytes]], address: str
) -> None:
    with pytest.raises(SettingError, match=f"address {address}: .*; give an address of this host"):
        ZmqBrokerChannel(context, address)


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://127.0.0.1", "ipc://", "gopher://x:1"])
def test_an_address_that_cannot_be_connected_to_is_a_setting_error(
    context: zmq.Context[zmq.Socket[bytes]], address: str
) -> None:
    with pytest.raises(SettingError, match=f"broker={address}: .*; expected tcp://host:port"):
        ZmqRoleChannel(context, address)
