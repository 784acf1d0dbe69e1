"""Hosts whose clocks disagree: no process takes another's word for the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import HEAVY, assert_nothing_lost_or_doubled
from tests.processes.roles import roles, start_broker

pytestmark = pytest.mark.processes

EPOCHS = 24
AN_HOUR_S = 3600
"""Far less than the clocks differ, and more than a busy machine holds anybody up."""
SHIFT = """
import datetime, os, time

def later(clock, unit):
    return lambda: clock() + type(clock())(float(os.environ["CLOCK_SHIFT_S"]) * unit)

for name in ("time", "monotonic", "perf_counter"):
    setattr(time, name, later(getattr(time, name), 1))
    setattr(time, name + "_ns", later(getattr(time, name + "_ns"), 1e9))
print("clocks are shifted", flush=True)
"""


def test_clocks_a_day_apart_change_nothing(tmp_path: Path) -> None:
    """The Assistant's clocks are a day ahead of the broker's, the Boss's a day behind; wall clocks and all others."""
    (tmp_path / "sitecustomize.py").write_text(SHIFT)
    day_s = 86400

    def shifted(seconds: int) -> dict[str, str]:
        return {"PYTHONPATH": str(tmp_path), "CLOCK_SHIFT_S": str(seconds)}

    run_dir = tmp_path / "run"
    with roles() as start:
        broker, address, _ = start_broker(start, run_dir)
        assistant = start("assistant", HEAVY, "--broker", address, environment=shifted(day_s))
        assistant.wait_for("waiting for the broker")
        words = ("--broker", address, "--epochs", str(EPOCHS), "--local-after-s", str(AN_HOUR_S))
        boss = start("boss", HEAVY, *words, environment=shifted(-day_s))
        assert boss.end() == assistant.end() == broker.end() == 0, boss.text + assistant.text
        assert "clocks are shifted" in boss.text and "clocks are shifted" in assistant.text
    assert_nothing_lost_or_doubled(run_dir, EPOCHS)
    report = read_report(run_dir)
    assert report.boss.off_plan_steps == 0, "nobody was thought to be away"
    assert 0.0 < report.boss.wall_s < 3600.0
    assert report.selection.unfiltered_fraction < 0.5, "the Assistant has filtered"
    assert report.refused_input == {}
