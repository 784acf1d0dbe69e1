"""A Boss that was thought dead wakes up after another one has taken its place."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import HEAVY, assert_nothing_lost_or_doubled
from tests.processes.heavy_digits import Pace
from tests.processes.roles import Statistics, roles, start_broker

pytestmark = pytest.mark.processes
EPOCHS = 60


def test_a_zombie_is_told_to_stop_and_cannot_move_the_run(tmp_path: Path, pace: Pace) -> None:
    """It was suspended, its successor has taken the run back to their checkpoint; its steps are void."""
    run_dir = tmp_path / "run"
    with roles() as start:
        broker, address, statistics_address = start_broker(start, run_dir)
        statistics = Statistics(statistics_address)
        words = ("boss", HEAVY, "--broker", address, "--epochs", str(EPOCHS), "--checkpoint-every", "20")
        words += ("--checkpoint-dir", str(tmp_path / "checkpoints"))
        zombie = start(*words, environment=pace.environment)
        assistant = start("assistant", HEAVY, "--broker", address)
        zombie.wait_for("epoch 1:")
        zombie.process.send_signal(signal.SIGSTOP)
        broker.wait_for("boss-0 is silent")
        successor = start(*words, "--resume", environment=pace.environment)
        broker.wait_for("boss-0 has joined")
        zombie.process.send_signal(signal.SIGCONT)
        assert zombie.end() == 2, zombie.text
        assert "belongs to what came after it" in zombie.text and "Traceback" not in zombie.text
        trained = statistics.now().trained_steps
        assert not statistics.wait_until(lambda s: s.trained_steps > trained, "a run that goes on").ended
        pace.hurry()
        assert successor.end() == assistant.end() == broker.end() == 0, successor.text
        statistics.close()
    assert_nothing_lost_or_doubled(run_dir, EPOCHS)
    assert read_report(run_dir).status == "finished"
