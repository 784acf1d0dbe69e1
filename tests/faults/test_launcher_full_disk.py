"""The disk is full under a local run: it ends soon, says why, and goes on once there is space."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_full_disk import fill, small_disk  # noqa: F401
from tests.processes.heavy_digits import Pace
from tests.processes.launching import errors
from tests.processes.roles import HERE, roles

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def test_a_full_disk_ends_a_local_run_at_once_and_resume_goes_on(small_disk: Path, pace: Pace) -> None:  # noqa: F811
    run_dir, ballast = small_disk / "run", small_disk / "ballast"
    with roles() as start:
        words = ("--epochs", "20", "--run-dir", str(run_dir), "--checkpoint-every", "10")
        run = start("run", HEAVY, *words, environment=pace.environment)
        run.wait_for("epoch 1:")
        fill(ballast)
        assert run.end() == 1, run.text
        said = errors(run)
        assert len(said) == 1 and "cannot be written" in said[0] and f"--resume {run_dir}" in said[0], run.text
        assert "starting it again" not in run.text, "on the same full disk"
        ballast.unlink()
        pace.hurry()
        resumed = start("run", "--resume", str(run_dir), environment=pace.environment)
        assert resumed.end() == 0, resumed.text
    assert read_report(run_dir).status == "finished"
