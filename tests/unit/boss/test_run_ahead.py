"""A training thread may launch far more steps than its device has done; the feed knows the difference."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from boss.ahead import Ahead
from boss.feed import Feed
from boss.line import LocalSettings
from boss.reporter import RING_SLOTS
from protocol.settings import RunSettings
from tests.harness.fake_device import FakeDevice, on_device
from tests.harness.local_broker import local_broker

N, BATCH, STEPS = 320, 16, 20
PATIENCE_S = 60.0
EVER = 1 << 30
AHEAD = RunSettings().prefetch_batches


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    monkeypatch.setattr("boss.ahead.ALIVE_S", 3600.0)  # who is not told must show
    return FakeDevice(monkeypatch)


@pytest.fixture
def feed(tmp_path: Path, device: FakeDevice) -> Iterator[Feed]:
    with local_broker(tmp_path) as address:
        waits = LocalSettings(on_broker_loss="wait")
        found = Feed.connect(address, n=N, batch_size=BATCH, epochs=1, policy="uniform", local=waits)
        yield found
        device.stream.done = EVER
        found.close()


def train(feed: Feed, steps: int) -> None:
    for _, ids in zip(range(steps), feed, strict=False):
        feed.report(on_device(torch.ones(len(ids), requires_grad=True)))


@contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[threading.Thread]:
    """Done by another thread, which is waited for at the end."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    yield thread
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_training_thread_runs_only_some_steps_ahead_of_its_device(device: FakeDevice, feed: Feed) -> None:
    with meanwhile(lambda: train(feed, STEPS)):
        until(lambda: feed._line._ahead.is_awaited)
        assert feed.steps == AHEAD + 1
        device.stream.done = feed.steps
        until(lambda: feed.steps > AHEAD + 1 and feed._line._ahead.is_awaited)
        assert feed.steps == 2 * (AHEAD + 1)
        device.stream.done = EVER
    assert feed.steps == STEPS
    assert feed.close()


def test_an_evaluation_begins_once_the_device_has_done_the_steps_before_it(device: FakeDevice, feed: Feed) -> None:
    train(feed, 5)
    launched_at, began = feed.clocks.last_moment_at, threading.Event()

    def evaluate() -> None:
        with feed.evaluation():
            began.set()

    with meanwhile(evaluate):
        until(lambda: feed._line._ahead.is_awaited)
        assert not began.is_set()
        device.stream.done = EVER
    assert began.is_set()
    assert feed.clocks.last_moment_at > launched_at, "till then it was training"


def test_a_feed_is_closed_once_the_device_has_done_its_steps(device: FakeDevice, feed: Feed) -> None:
    train(feed, 5)
    closed: list[bool] = []
    with meanwhile(lambda: closed.append(feed.close())):
        until(lambda: feed._line._ahead.is_awaited)
        device.stream.done = EVER
    assert closed == [True] and feed.figures()["values_dropped"] == 0


def test_a_feed_that_has_failed_is_closed_without_the_device(
    device: FakeDevice, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may never do them: another rank is gone, and it waits for it."""
    monkeypatch.setattr("boss.line.COPIES_S", 0.1)
    train(feed, 5)
    feed.close("failed")
    assert not feed._line._thread.is_alive() and device.stream.done == 0


def test_who_waits_for_a_device_hears_of_the_end_of_the_line(device: FakeDevice, feed: Feed) -> None:
    train(feed, 5)
    with meanwhile(feed.until_done):
        until(lambda: feed._line._ahead.is_awaited)
        feed._line.fail(RuntimeError("the line has ended"))


def test_a_device_that_stands_still_is_not_waited_for_for_ever(
    device: FakeDevice, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ahead.STALL_S", "ahead.ALIVE_S", "line.COPIES_S"):
        monkeypatch.setattr(f"boss.{name}", 0.1)
    train(feed, 5)
    feed.close()
    assert not feed._line._thread.is_alive() and device.stream.done == 0


def test_who_breaks_off_the_wait_for_the_device_still_closes_the_feed(
    device: FakeDevice, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(lag_steps: int = 0) -> bool:
        raise KeyboardInterrupt

    train(feed, 5)
    monkeypatch.setattr(feed._line, "until_done", broken_off)
    device.stream.done = EVER
    with pytest.raises(KeyboardInterrupt):
        feed.close()
    assert feed._line.all_acknowledged


def test_an_evaluation_after_a_failure_waits_for_nothing(
    device: FakeDevice, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boss.line.COPIES_S", 0.1)
    train(feed, 5)
    feed.close("failed")
    with feed.evaluation():
        pass


def test_more_batches_ahead_than_the_ring_holds_lose_no_losses(device: FakeDevice, tmp_path: Path) -> None:
    waits = LocalSettings(on_broker_loss="wait")
    run = {"n": 100 * BATCH, "batch_size": BATCH, "epochs": 1, "policy": "uniform", "staleness_bound": 300}
    with (
        local_broker(tmp_path) as address,
        Feed.connect(address, prefetch_batches=100, local=waits, **run) as feed,  # type: ignore[arg-type]
        meanwhile(lambda: train(feed, 100)),
    ):
        until(lambda: feed._line._ahead.is_awaited)
        assert feed.steps == RING_SLOTS and feed._reporter.values_dropped == 0
        device.stream.done = EVER


class Came:
    """A reporter whose last losses come while the training thread makes up its mind to wait for them."""

    def __init__(self) -> None:
        self.lags = [1, 0]

    @property
    def lag_steps(self) -> int:
        return self.lags.pop(0) if self.lags else 0


def test_losses_that_come_between_the_look_and_the_wait_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boss.ahead.ALIVE_S", 3600.0)
    reporter: Any = Came()
    ahead = Ahead(reporter, threading.Condition(), prefetch_batches=8)
    with meanwhile(lambda: bool(ahead.until_done(0, lambda: None, lambda: True)) or None):
        pass
