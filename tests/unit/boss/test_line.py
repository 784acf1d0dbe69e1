"""What the Boss's I/O thread says, and how often: each message costs the broker a wake-up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pytest

from boss.line import BossLine
from boss.plan import BossPlan
from boss.reporter import Reporter
from protocol.channels import MemoryHub
from protocol.client import ConnectSettings, RoleClient
from protocol.codec import decode, encode
from protocol.messages import AnyMessage, Batch, Checkpoint, Credit, Envelope, Heartbeat, Hello, Stop, Welcome
from protocol.settings import RunSettings

RUN = RunSettings(epochs=1, batch_size=4)
WAIT_S = 30.0


class Turns(RoleClient):
    """Counts the turns of the I/O thread, and lets it sleep while nobody wants one."""

    def __init__(self, hub: MemoryHub) -> None:
        hello = Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=400, settings=RUN)
        super().__init__(hello, ConnectSettings(), channel=hub.connect())
        self.wanted, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def poll(self, timeout_s: float, wake_fd: int | None = None) -> list[AnyMessage]:
        self.done.release()
        assert self.wanted.acquire(timeout=WAIT_S)
        return super().poll(timeout_s, wake_fd)

    def turn(self) -> None:
        """One whole turn, from poll to poll."""
        assert self.done.acquire(timeout=WAIT_S)
        self.wanted.release()
        assert self.done.acquire(timeout=WAIT_S)
        self.done.release()


@contextmanager
def boss_line(hub: MemoryHub) -> Iterator[tuple[BossLine, Turns]]:
    """A line whose Boss is in the run."""
    client = Turns(hub)
    line = BossLine(client, BossPlan(rank=0, settings=RUN, n=400), Reporter(rank=0))
    try:
        client.turn()
        say(hub, 0, Welcome(run_id="r", stream="s", settings=RUN))
        client.turn()
        yield line, client
    finally:
        client.wanted.release(1000)
        line.leave()


def say(hub: MemoryHub, seq: int, message: AnyMessage, ack: int = 0) -> None:
    (name,) = hub.lines
    hub.lines[name].append(encode(Envelope(seq=seq, span=1, ack=ack, message=message)))


def batch(step: int) -> Batch:
    ones = np.ones(4, dtype=np.float32)
    return Batch(
        step=step, epoch=0, progress=0.0, ids=np.arange(4), keep_probabilities=ones, rank_counts=[4], segments=[]
    )


def credits(hub: MemoryHub) -> list[int]:
    """The credits that were said since the last call."""
    said = [decode(frames).message for _, frames in hub.inbox]
    hub.inbox.clear()
    return [message.limit for message in said if isinstance(message, Credit)]


def test_a_credit_that_the_broker_knows_is_not_said_again() -> None:
    hub = MemoryHub()
    with boss_line(hub) as (_, client):
        assert credits(hub) == [7]
        for step in range(4):
            say(hub, step + 1, batch(step))
            client.turn()
        assert credits(hub) == []


def test_a_broker_that_answers_anew_hears_the_credit_again() -> None:
    hub = MemoryHub()
    with boss_line(hub) as (_, client):
        credits(hub)
        say(hub, 0, Welcome(run_id="r", stream="another", settings=RUN))
        client.turn()
        assert credits(hub) == [7]


def test_a_pull_is_told_at_once_only_where_few_batches_are_left() -> None:
    hub = MemoryHub()
    with boss_line(hub) as (line, client):
        for step in range(8):
            say(hub, step + 1, batch(step))
        client.turn()
        woken = []
        for _ in range(8):
            line.pull()
            woken.append(_was_woken(line))
        assert woken == [False, False, False, True, True, True, True, True]


def test_a_report_is_told_at_once_where_few_batches_are_left_though_the_thread_looks_by_itself() -> None:
    hub = MemoryHub()
    with boss_line(hub) as (line, client):
        for step in range(8):
            say(hub, step + 1, batch(step))
        client.turn()
        line._wake.looks_soon = True
        woken = []
        for _ in range(8):
            line.pull()
            line._wake.clear()
            line.reported()
            woken.append(_was_woken(line))
        assert woken == [False, False, False, True, True, True, True, True]


def test_who_waits_until_all_is_committed_asks_the_broker_once_all_is_said() -> None:
    hub = MemoryHub()
    with boss_line(hub) as (line, client):
        hub.inbox.clear()
        line.say(Checkpoint(step=0))
        waiting = threading.Thread(target=line._settle, args=(WAIT_S,))
        waiting.start()
        while not (asked := [type(decode(frames).message) for _, frames in hub.inbox]).count(Heartbeat):
            client.turn()
        assert asked == [Checkpoint, Heartbeat]
        say(hub, 0, Heartbeat(seq=0), ack=1)
        client.turn()
        waiting.join(WAIT_S)
        assert not waiting.is_alive()


def _was_woken(line: BossLine) -> bool:
    was = line._wake.is_set
    line._wake.clear()
    return was


@pytest.mark.parametrize(("reason", "hurries"), [("stopped", True), ("finished", False)])
def test_a_broker_that_has_said_that_it_stops_is_not_waited_for_at_the_end(
    reason: Literal["stopped", "finished"], hurries: bool
) -> None:
    hub = MemoryHub()
    with boss_line(hub) as (line, client):
        say(hub, 1, Stop(reason=reason))
        client.turn()
        assert line.hurries is hurries
