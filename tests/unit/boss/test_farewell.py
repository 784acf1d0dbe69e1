"""Until when the last words of a Boss are waited for."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoassist.keys_command import make_keys
from boss import farewell
from boss.farewell import AWAY_S, DRAIN_S, is_committed
from boss.feed import Feed
from protocol.report import read_report
from protocol.session import SessionTimes
from tests.processes.roles import DEADLINE_S, roles, start_broker

FOR_EVER = 1e9


class Broker:
    """What a client sees of one that answers, and commits, in these seconds only; time passes by waiting for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, answers: Callable[[float], bool], commits_at: float) -> None:
        self.now = 0.0
        self._answers, self._commits_at = answers, commits_at
        monkeypatch.setattr(farewell.time, "monotonic", lambda: self.now)

    @property
    def is_open(self) -> bool:
        return self._answers(self.now)

    def drain(self, timeout_s: float) -> bool:
        self.now += timeout_s
        return self.is_open and self.now >= self._commits_at


def nobody() -> bool:
    return False


@pytest.mark.parametrize(("back_at", "in_time"), [(250.0, True), (700.0, False)])
def test_a_broker_that_is_away_may_come_back_as_long_as_it_is_waited_for(
    back_at: float, in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(monkeypatch, answers=lambda now: now < 3 or now >= back_at, commits_at=back_at + 5)
    assert is_committed(broker, 600.0, nobody) is in_time  # type: ignore[arg-type]


def test_a_broker_that_answers_and_never_commits_is_left_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch, answers=lambda now: True, commits_at=FOR_EVER)
    assert not is_committed(broker, 600.0, nobody) and DRAIN_S <= broker.now < DRAIN_S + 2  # type: ignore[arg-type]


@pytest.mark.parametrize(("told_at", "left_by"), [(20.0, 22.0), (0.0, AWAY_S + 2)])
def test_who_is_told_to_stop_waits_no_longer(told_at: float, left_by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before or while he waits; a broker that is started again just now has its few seconds all the same."""
    broker = Broker(monkeypatch, answers=lambda now: False, commits_at=FOR_EVER)
    assert not is_committed(broker, 600.0, lambda: broker.now >= told_at)  # type: ignore[arg-type]
    assert max(told_at, AWAY_S) <= broker.now < left_by


def test_a_run_that_is_not_finished_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch, answers=lambda now: False, commits_at=FOR_EVER)
    assert not is_committed(broker, AWAY_S, nobody) and broker.now < AWAY_S + 2  # type: ignore[arg-type]


@pytest.mark.parametrize("has_keys", [False, True])
def test_a_finished_run_is_finished_though_its_broker_stands_still_at_the_end(
    has_keys: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Suspended, or behind a network that is cut for a while: no more is wrong than in the middle of the run."""
    monkeypatch.setattr(farewell, "DRAIN_S", 2.0)
    times, caught = SessionTimes(heartbeat_s=0.2, silence_s=1.0), caplog.at_level(logging.INFO)
    keys = tmp_path / "keys"
    if has_keys:
        make_keys(keys)
    with roles() as start, caught:
        broker, address, _ = start_broker(start, tmp_path / "run", *(("--keys", str(keys)) if has_keys else ()))
        run = {"n": 64, "batch_size": 16, "epochs": 1, "policy": "uniform", "keys": str(keys) if has_keys else None}
        feed = Feed.connect(address, times=times, **run)  # type: ignore[arg-type]
        for ids in feed:
            feed.report(torch.ones(len(ids)))
        os.kill(broker.process.pid, signal.SIGSTOP)
        closing = threading.Thread(target=feed.close)
        closing.start()
        deadline = time.monotonic() + DEADLINE_S
        while "waiting for the broker" not in caplog.text and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        os.kill(broker.process.pid, signal.SIGCONT)
        closing.join(DEADLINE_S)
        assert feed.close() is True
        assert broker.process.wait(DEADLINE_S) == 0
    assert read_report(tmp_path / "run").status == "finished"
