"""``autoassist top`` from outside the run."""

from __future__ import annotations

import json
import signal
from collections import deque
from pathlib import Path

import pytest

from autoassist.figures import sparkline
from autoassist.top import Rates
from protocol.statistics import PeerStatistics, RunStatistics
from tests.processes.roles import HERE, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def test_top_finds_a_run_by_its_directory_and_by_its_address(tmp_path: Path) -> None:
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "4000")
        boss.wait_for("epoch 0:")
        for target in (str(tmp_path), statistics_address):
            top = start("top", target, "--once", "--json")
            assert top.end() == 0, top.text
            sample = json.loads(top.text)
            assert sample["trained_steps"] > 0 and sample["peers"][0]["name"] == "boss-0"
        drawn = start("top", str(tmp_path), "--once")
        assert drawn.end() == 0 and "ready at the Boss" in drawn.text
        boss.terminate()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text


def test_top_ends_with_a_signal(tmp_path: Path) -> None:
    with roles() as start:
        broker, _, statistics_address = start_broker(start, tmp_path)
        top = start("top", statistics_address, "--json")
        top.wait_for("run_id")
        top.process.send_signal(signal.SIGINT)
        assert top.end() == 128 + signal.SIGINT, top.text
        broker.terminate()
        assert broker.end() == 0, broker.text


@pytest.mark.parametrize(("target", "code"), [("nowhere", 2), ("", 2), ("tcp://nonsense", 2), ("tcp://127.0.0.1:9", 1)])
def test_top_says_where_it_finds_nothing(tmp_path: Path, target: str, code: int) -> None:
    with roles() as start:
        top = start("top", target, "--once", "--timeout-s", "0.5", cwd=tmp_path)
        assert top.end() == code, top.text
        assert len([line for line in top.said if line.startswith("error:")]) == 1 and "Traceback" not in top.text


def test_rates_are_differences_of_two_samples_over_the_time_between() -> None:
    rates = Rates()
    rates.add(RunStatistics(policy="uniform", trained_steps=10, offered=100), 5.0)
    rates.add(RunStatistics(policy="uniform", trained_steps=30, offered=500), 7.0)
    assert list(rates.history["steps/s"]) == [10.0] and list(rates.history["offered/s"]) == [200.0]


def test_an_assistant_has_curves_of_its_own() -> None:
    rates = Rates()
    for windows, offered, kept, now in ((10, 100, 100, 5.0), (30, 500, 200, 7.0)):
        peer = PeerStatistics(name="assistant-0", role="assistant", silent_s=0.0, lift=0.5)
        peer.windows, peer.offered, peer.kept = windows, offered, kept
        rates.add(RunStatistics(policy="autoassist", peers=[peer]), now)
    last = {name: values[-1] for name, values in rates.history.items()}
    assert last["windows/s of assistant-0"] == 10.0 and last["kept by assistant-0, share"] == 0.25
    assert last["lift of assistant-0"] == 0.5


def test_a_sparkline_has_a_bar_for_each_value() -> None:
    assert sparkline(deque([0.0, 4.0, 8.0])) == "▁▅█"
