"""A role of a local run fails: what may be started again is, and all else ends the run with one clear error."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import psutil
import pytest

from protocol.report import read_report
from tests.processes.heavy_digits import Pace
from tests.processes.launching import child, errors, write_workload
from tests.processes.roles import DEADLINE_S, HERE, roles

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"
MANY = ("--epochs", "20")
"""So many that the run is not over before it was disturbed."""
SOON_S = DEADLINE_S
"""Far less than the time for which a run hung, or went on in vain for its 2000 epochs."""


def test_a_killed_broker_is_started_again_and_the_run_finishes(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        run = start("run", HEAVY, *MANY, "--run-dir", str(tmp_path), environment=pace.environment)
        run.wait_for("epoch 1:")
        child(run, "broker").kill()
        run.wait_for("the broker was killed by signal 9 (SIGKILL); starting it again")
        pace.hurry()
        assert run.end() == 0, run.text
    assert read_report(tmp_path).status == "finished"


def test_broker_and_boss_killed_together_are_both_started_again(tmp_path: Path, pace: Pace) -> None:
    words = ("--run-dir", str(tmp_path), "--checkpoint-every", "10")
    with roles() as start:
        run = start("run", HEAVY, *MANY, *words, environment=pace.environment)
        run.wait_for("epoch 1:")
        doomed = [child(run, "broker"), child(run, "boss")]
        for process in doomed:
            process.kill()
        run.wait_for("resuming from the checkpoint")
        pace.hurry()
        assert run.end() == 0, run.text
    assert read_report(tmp_path).status == "finished"


def test_an_assistant_that_fails_for_good_is_done_without(tmp_path: Path, pace: Pace) -> None:
    words = ("--run-dir", str(tmp_path), "--assistant-restarts", "0")
    with roles() as start:
        run = start("run", HEAVY, *MANY, *words, environment=pace.environment)
        run.wait_for("epoch 1:")
        child(run, "assistant").kill()
        run.wait_for("the run goes on without it")
        pace.hurry()
        assert run.end() == 1, run.text
    assert read_report(tmp_path).status == "finished"
    assert len(errors(run)) == 1 and "assistant-0 failed for good" in errors(run)[0], run.text


@pytest.mark.parametrize(
    "number, how",
    [(signal.SIGKILL, "was killed by signal 9 (SIGKILL)"), (signal.SIGTERM, "ended with code 0")],
)
def test_in_deterministic_mode_an_assistant_that_is_gone_for_good_ends_the_run(
    tmp_path: Path, number: signal.Signals, how: str
) -> None:
    """Nobody else may score its windows: the Boss would wait for ever."""
    words = ("--epochs", "2000", "--deterministic", "--assistant-restarts", "0", "--run-dir", str(tmp_path))
    with roles() as start:
        run = start("run", HEAVY, *words)
        run.wait_for("epoch 1:")
        child(run, "assistant").send_signal(number)
        assert run.end(SOON_S) == 1, run.text
    assert len(errors(run)) == 1, run.text
    assert f"assistant-0 {how}" in errors(run)[0]
    assert "in deterministic mode the run cannot go on without it" in errors(run)[0]


def test_a_run_directory_that_is_deleted_ends_the_run_with_one_error_and_nothing_left(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with roles() as start:
        words = ("--epochs", "2000", "--checkpoint-every", "0", "--look-ahead", "on", "--run-dir", str(run_dir))
        run = start("run", HEAVY, *words)
        run.wait_for("epoch 1:")
        children = psutil.Process(run.process.pid).children(recursive=True)
        while run_dir.exists():  # the broker may write its report meanwhile
            shutil.rmtree(run_dir, ignore_errors=True)
        assert run.end(SOON_S) == 1, run.text
        assert len(children) >= 3 and not any(c.is_running() and c.status() != "zombie" for c in children)
    assert len(errors(run)) == 1 and f"run_dir={run_dir}: is gone" in errors(run)[0], run.text
    assert "starting it again" not in run.text
    assert not run_dir.exists()


def test_a_moved_run_is_resumed_at_its_new_place(tmp_path: Path, pace: Pace) -> None:
    words = ("--run-dir", str(tmp_path / "old"), "--checkpoint-every", "20")
    with roles() as start:
        run = start("run", HEAVY, *MANY, *words, environment=pace.environment)
        run.wait_for("epoch 1:")
        (tmp_path / "old").rename(tmp_path / "new")
        assert run.end(SOON_S) == 1, run.text
        pace.hurry()
        resumed = start("run", "--resume", str(tmp_path / "new"), environment=pace.environment)
        assert resumed.end() == 0, resumed.text
    assert "resuming from the checkpoint" in resumed.text
    assert read_report(tmp_path / "new").status == "finished"
    assert not (tmp_path / "old").exists()


def test_a_broker_that_does_not_start_leaves_no_directory(tmp_path: Path) -> None:
    """Its store cannot be opened: somebody has put a folder where its lock goes."""
    run_dir = tmp_path / "run"
    (run_dir / "broker.lock").mkdir(parents=True)
    with roles() as start:
        run = start("run", "digits", "--run-dir", str(run_dir))
        assert run.end() == 1, run.text
    assert len(errors(run)) == 1 and "broker ended with code 1" in errors(run)[0], run.text
    assert [path.name for path in run_dir.iterdir()] == ["broker.lock"]


def test_a_role_that_was_stopped_from_outside_stops_the_run_with_a_signals_code(tmp_path: Path) -> None:
    with roles() as start:
        run = start("run", HEAVY, "--epochs", "2000", "--run-dir", str(tmp_path))
        run.wait_for("epoch 1:")
        child(run, "boss").terminate()
        assert run.end() == 128 + signal.SIGTERM, run.text
    assert read_report(tmp_path).status == "stopped"
    assert not errors(run)


def test_a_mistake_that_only_one_role_makes_is_one_error_without_a_directory(tmp_path: Path) -> None:
    source = write_workload(
        tmp_path,
        "labels",
        "from protocol.errors import DataError\nif role == 'boss':\n    raise DataError('torn file')",
    )
    run_dir = tmp_path / "runs" / "mine"
    with roles() as start:
        run = start("run", source, "--run-dir", str(run_dir))
        assert run.end() == 2, run.text
    assert errors(run) == ["error: boss-0 ended with code 2: torn file"]
    assert not run_dir.parent.exists()
