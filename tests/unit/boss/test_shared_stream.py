"""A rank that has lost another: its training thread may hang in an operation that nothing can interrupt."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from boss import shared_stream
from boss.plan import BossPlan
from boss.ranks import Heard
from boss.shared_stream import SharedStream
from protocol.errors import RankLost
from protocol.messages import Stop
from protocol.settings import RunSettings

WAIT_S = 30.0


class Alone:
    """A group whose other rank is gone."""

    rank, world_size = 1, 2

    def exchange(self, *_: object, **__: object) -> Heard:
        raise RankLost("another rank is gone or silent")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Exit codes with which the process would have ended itself."""
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    yield codes


def lose_a_rank(*, leaves: bool) -> SharedStream:
    """A stream that has lost a rank, once its thread is over; ``leaves`` where the training thread has noticed."""
    noticed = threading.Event()
    plan = BossPlan(rank=1, settings=RunSettings(batch_size=4, world_size=2), n=400)
    stream = SharedStream(Alone(), plan, threading.Condition(), lambda _: noticed.set())  # type: ignore[arg-type]
    stream.start()
    assert noticed.wait(WAIT_S)
    if leaves:
        stream.close(Stop(reason="failed"))
    stream._thread.join(WAIT_S)
    assert not stream._thread.is_alive()
    return stream


def test_where_torchrun_watches_a_rank_that_hangs_on_one_that_is_gone_ends_itself(
    monkeypatch: pytest.MonkeyPatch, ended: list[int]
) -> None:
    monkeypatch.setenv(shared_stream.AGENT_VARIABLE, "mine")
    monkeypatch.setattr(shared_stream, "STUCK_S", 0.01)
    lose_a_rank(leaves=False)
    assert ended == [RankLost.exit_code]


def test_a_rank_that_notices_by_itself_that_another_is_gone_leaves_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, ended: list[int]
) -> None:
    monkeypatch.setenv(shared_stream.AGENT_VARIABLE, "mine")
    stream = lose_a_rank(leaves=True)
    assert ended == [] and stream.has_lost_a_rank()


def test_where_nobody_watches_a_rank_is_not_ended(monkeypatch: pytest.MonkeyPatch, ended: list[int]) -> None:
    monkeypatch.delenv(shared_stream.AGENT_VARIABLE, raising=False)
    lose_a_rank(leaves=False)
    assert ended == []
