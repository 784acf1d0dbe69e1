"""Assistants die, hang and come back: the Boss does not notice, and filtering resumes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_hardly_a_wait, assert_nothing_lost_or_doubled
from tests.processes.heavy_digits import Pace
from tests.processes.roles import HERE, Statistics, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def windows_of(statistics: Statistics, name: str) -> int:
    """Windows that an Assistant has selected from, as last heard."""
    return next((p.windows for p in statistics.last.peers if p.name == name), 0)


def test_a_suspended_assistant_is_overtaken_and_works_again_when_it_wakes(tmp_path: Path, pace: Pace) -> None:
    """SIGSTOP: alive, its socket open, and no progress. Its windows go unfiltered; on SIGCONT it joins again."""
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        statistics = Statistics(statistics_address)
        assistant = start("assistant", HEAVY, "--broker", address)
        assistant.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "60", environment=pace.environment)
        statistics.wait_until(lambda s: s.epoch >= 2, "the third epoch")
        os.kill(assistant.process.pid, signal.SIGSTOP)
        before = statistics.now()
        gone = statistics.wait_until(lambda s: s.unfiltered > before.unfiltered + s.n, "a whole epoch unfiltered")
        windows = windows_of(statistics, "assistant-0")
        os.kill(assistant.process.pid, signal.SIGCONT)
        statistics.wait_until(lambda s: windows_of(statistics, "assistant-0") > windows + 5, "windows of the woken one")
        assert_hardly_a_wait(statistics.last)
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, 60)
    report = read_report(tmp_path)
    assert report.selection.unfiltered_fraction > 0 and gone.epoch < 59


def test_three_of_four_assistants_killed_leave_the_work_to_the_fourth(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        statistics = Statistics(statistics_address)
        assistants = [start("assistant", HEAVY, "--broker", address, "--name", f"a{i}") for i in range(4)]
        for assistant in assistants:
            assistant.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "60", environment=pace.environment)
        statistics.wait_until(lambda s: s.epoch >= 1 and len(s.peers) == 5, "all four at work")
        for assistant in assistants[:3]:
            assistant.kill()
        statistics.wait_until(lambda s: len(s.peers) == 2, "three given up for lost")
        windows = windows_of(statistics, "a3")
        statistics.wait_until(lambda s: windows_of(statistics, "a3") > windows + 10, "the fourth at work")
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistants[3].end() == 0, assistants[3].text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, 60)


def test_a_restarted_assistant_goes_on_from_its_checkpoint(tmp_path: Path, pace: Pace) -> None:
    state_dir = str(tmp_path / "assistants")
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path / "run")
        statistics = Statistics(statistics_address)
        first = start("assistant", HEAVY, "--broker", address, "--state-dir", state_dir)
        first.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "60", environment=pace.environment)
        statistics.wait_until(
            lambda s: s.epoch >= 2 and windows_of(statistics, "assistant-0") > 5, "selections in the third epoch"
        )
        first.terminate()
        assert first.end() == 0, first.text
        second = start("assistant", HEAVY, "--broker", address, "--state-dir", state_dir)
        second.wait_for("going on from the checkpoint of loss record")
        statistics.now()
        windows = windows_of(statistics, "assistant-0")
        statistics.wait_until(lambda s: windows_of(statistics, "assistant-0") > windows + 20, "windows from then on")
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert second.end() == 0, second.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path / "run", 60)


def test_an_assistant_that_is_too_slow_filters_what_it_can_and_holds_nobody_up(tmp_path: Path) -> None:
    """Two seconds for a window, of which the Boss trains several meanwhile."""
    slow = (sys.executable, str(HERE / "slow_assistant.py"))
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        assistant = start("assistant", HEAVY, "--broker", address, within=slow)
        assistant.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "12")
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    assert_nothing_lost_or_doubled(tmp_path, 12)
    report = read_report(tmp_path)
    assert report.selection.unfiltered_fraction > 0.5
    assert report.assistants[0].windows + report.assistants[0].selections_late > 0, "it went on answering"
    assert report.boss.exposed_wait_fraction <= 0.02
