"""A killed run goes on from its checkpoint as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import torch

from autoassist.cli import main
from boss.checkpoint import CheckpointDir
from protocol.report import read_report
from tests.processes.roles import HERE, Role, export, roles

pytestmark = pytest.mark.processes
SLOW = f"{HERE / 'heavy_digits.py'}:HeavyDigits"
DETERMINISTIC = ("--epochs", "5", "--deterministic", "--seed", "1", "--checkpoint-every", "20")


def boss_pid(run: Role) -> int:
    """Process ID of a launched Boss."""
    for child in psutil.Process(run.process.pid).children():
        if "boss" in child.cmdline():
            return child.pid
    raise AssertionError("no Boss is running")


def kill_with_children(run: Role) -> None:
    """kill -9 of the launcher, and the end of its roles: a Boss that hears of it saves itself once more."""
    children = psutil.Process(run.process.pid).children(recursive=True)
    run.kill()
    _, alive = psutil.wait_procs(children, timeout=60.0)
    assert not alive


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """The trained Boss."""
    return torch.load(run_dir / "boss.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deterministic run from beginning to end."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    run = Role("run", SLOW, *DETERMINISTIC, "--run-dir", str(run_dir))
    assert run.end() == 0, run.text
    return run_dir


def assert_same_run(first: Path, second: Path) -> None:
    """IDs, π, losses and final weights are the same to the bit."""
    assert export(first) == export(second)
    assert export(first, "losses") == export(second, "losses")
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    for name, values in mine.items():
        assert torch.equal(values, other[name]), name


def test_a_killed_boss_is_resumed_and_the_run_is_the_same_to_the_bit(tmp_path: Path, uninterrupted: Path) -> None:
    """kill -9 twice at random moments; the launcher starts the Boss again from its newest checkpoint."""
    rng = random.Random(11)
    with roles() as start:
        run = start("run", SLOW, *DETERMINISTIC, "--run-dir", str(tmp_path))
        for epoch in sorted(rng.sample(range(3), 2)):
            run.wait_for(f"epoch {epoch}:")
            os.kill(boss_pid(run), signal.SIGKILL)
            run.wait_for("resuming from the checkpoint")
        assert run.end() == 0, run.text
    assert_same_run(uninterrupted, tmp_path)
    assert read_report(tmp_path).boss.instances == read_report(uninterrupted).boss.instances


def test_a_run_whose_launcher_was_killed_is_resumed_by_its_directory(tmp_path: Path, uninterrupted: Path) -> None:
    with roles() as start:
        run = start("run", SLOW, *DETERMINISTIC, "--run-dir", str(tmp_path))
        run.wait_for("epoch 1:")
        run.kill()
    resumed = Role("run", "--resume", str(tmp_path))
    assert resumed.end() == 0, resumed.text
    assert "resuming from the checkpoint" in resumed.text
    assert_same_run(uninterrupted, tmp_path)


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path: Path, uninterrupted: Path) -> None:
    with roles() as start:
        run = start("run", SLOW, *DETERMINISTIC, "--run-dir", str(tmp_path))
        run.wait_for("epoch 2:")
        run.terminate()
        assert run.end() == 128 + signal.SIGTERM, run.text
    stopped_after = read_report(tmp_path).boss.steps
    resumed = Role("run", "--resume", str(tmp_path))
    assert resumed.end() == 0, resumed.text
    assert f"resuming from the checkpoint of step {stopped_after - 1}" in resumed.text
    assert "the run goes on at step" in resumed.text and "the run begins" not in resumed.text
    assert "warning" not in resumed.text.lower(), "nothing is lost, and nobody is thrown out"
    assert_same_run(uninterrupted, tmp_path)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(tmp_path: Path, uninterrupted: Path) -> None:
    with roles() as start:
        run = start("run", SLOW, *DETERMINISTIC, "--run-dir", str(tmp_path))
        run.wait_for("epoch 2:")
        kill_with_children(run)
    before, newest = CheckpointDir(tmp_path / "checkpoints", keep=2).entries()
    damaged = tmp_path / "checkpoints" / newest.file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    resumed = Role("run", "--resume", str(tmp_path))
    assert resumed.end() == 0, resumed.text
    assert f"{newest.file} is damaged" in resumed.text
    assert f"resuming from the checkpoint of step {before.step}" in resumed.text
    assert_same_run(uninterrupted, tmp_path)


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, uninterrupted: Path) -> None:
    with roles() as start:
        run = start("run", SLOW, *DETERMINISTIC[:-1], "1000", "--run-dir", str(tmp_path))
        run.wait_for("epoch 1:")
        kill_with_children(run)
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)  # a Boss that had the time has saved itself at the end
    resumed = Role("run", "--resume", str(tmp_path))
    assert resumed.end() == 0, resumed.text
    assert "resuming from the beginning" in resumed.text
    assert_same_run(uninterrupted, tmp_path)


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "command.json" in said and "Traceback" not in said
