"""The disk is full: a clear error, nothing acknowledged that is not safe, and the run goes on once there is space."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from boss.checkpoint import CheckpointDir
from protocol.report import read_report
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.harness.disks import make_read_only
from tests.processes.heavy_digits import Pace
from tests.processes.roles import HERE, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=False, capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_under_the_checkpoints_costs_checkpoints_and_not_the_training(
    small_disk: Path, tmp_path: Path, pace: Pace
) -> None:
    checkpoints = small_disk / "checkpoints"
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path / "run")
        saving = ("--checkpoint-every", "5", "--checkpoint-dir", str(checkpoints))
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "16", *saving, environment=pace.environment)
        boss.wait_for("epoch 0:")
        fill(small_disk / "ballast")
        boss.wait_for("cannot be written")
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text
    assert "the one before it still counts" in boss.text and "Traceback" not in boss.text
    assert not list(checkpoints.glob("*.part")), "nothing half written is left"
    newest = CheckpointDir(checkpoints, keep=2).newest()
    assert newest is not None and newest.step > 0


def test_a_full_disk_stops_the_broker_clearly_and_the_run_goes_on_when_there_is_space(
    small_disk: Path, pace: Pace
) -> None:
    ballast = small_disk / "ballast"
    with roles() as start:
        broker, address, _ = start_broker(start, small_disk / "run")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "20", environment=pace.environment)
        boss.wait_for("epoch 0:")
        fill(ballast)
        assert broker.end() == 1
        assert "cannot be written" in broker.text and "free space" in broker.text
        assert "Traceback" not in broker.text
        ballast.unlink()
        port = address.rpartition(":")[2]
        broker = start("broker", "--run-dir", str(small_disk / "run"), "--port", port)
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text
    assert read_report(small_disk / "run").status == "finished"
    assert_nothing_lost_or_doubled(small_disk / "run", 20)


def test_a_broker_on_a_read_only_disk_says_so_and_what_to_do(small_disk: Path) -> None:
    make_read_only(small_disk)
    with roles() as start:
        broker = start("broker", "--run-dir", str(small_disk / "run"), "--port", "0")
        assert broker.end() in (1, 2), broker.text
    assert "Read-only file system" in broker.text and "writable --run-dir" in broker.text
    assert "Traceback" not in broker.text
