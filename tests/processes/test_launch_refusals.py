"""A run is begun once, and resumed until it is finished: what would undo a run is refused and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.run_lock import RunLock
from protocol.report import read_report
from tests.processes.conftest import Here
from tests.processes.heavy_digits import Pace
from tests.processes.launching import child
from tests.processes.roles import HERE, Role, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    run = Role("run", "digits", "--epochs", "2", "--seed", "3", "--run-dir", str(run_dir))
    assert run.end() == 0, run.text
    return run_dir


def assert_refused(here: Here, words: tuple[str, ...], run_dir: Path, *named: str) -> None:
    """Exit code 2, one error that names it all, and the finished run as it was."""
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if "sqlite-" not in path.name}
    ended = here(*words, cwd=run_dir.parent)
    assert ended.code == 2, ended.text
    (error,) = ended.errors
    assert all(word in error for word in named), ended.text
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if "sqlite-" not in path.name} == before
    assert read_report(run_dir).status == "finished"


def test_a_run_is_not_begun_again_in_its_directory(finished: Path, here: Here) -> None:
    words = ("run", "digits", "--epochs", "2", "--seed", "3", "--run-dir", str(finished))
    assert_refused(here, words, finished, f"run_dir={finished}", f"--resume {finished}", "another --run-dir")


def test_an_interrupted_run_is_not_begun_again_but_resumed(tmp_path: Path, here: Here, pace: Pace) -> None:
    words = ("run", HEAVY, "--epochs", "20", "--run-dir", str(tmp_path), "--checkpoint-every", "20")
    with roles() as start:
        run = start(*words, environment=pace.environment)
        run.wait_for("epoch 1:")
        run.kill()
        again = here(*words, cwd=tmp_path)
        assert again.code == 2, again.text
        assert len(again.errors) == 1 and f"--resume {tmp_path}" in again.errors[0], again.text
        pace.hurry()
        resumed = start("run", "--resume", str(tmp_path), environment=pace.environment)
        assert resumed.end() == 0, resumed.text
    assert read_report(tmp_path).status == "finished"


def test_the_directory_of_a_broker_started_by_hand_is_not_taken(tmp_path: Path, here: Here) -> None:
    with roles() as start:
        broker, _, _ = start_broker(start, tmp_path)
        run = here("run", "digits", "--run-dir", str(tmp_path), cwd=tmp_path)
        assert run.code == 2, run.text
        assert len(run.errors) == 1 and f"run_dir={tmp_path}: holds a run already" in run.errors[0], run.text
        broker.terminate()
        assert broker.end() == 0, broker.text


def test_a_finished_run_is_not_resumed(finished: Path, here: Here) -> None:
    assert_refused(here, ("run", "--resume", str(finished)), finished, "is finished", str(finished / "report.json"))


@pytest.mark.parametrize(
    "typed, named",
    [
        (("--epochs", "9"), ("--epochs 9", "--epochs 2")),
        (("--policy", "uniform"), ("--policy uniform", "--policy autoassist")),
        (("mnist",), ("WORKLOAD mnist", "WORKLOAD digits")),
        (("--run-dir", "elsewhere"), ("--run-dir elsewhere", "--resume")),
    ],
)
def test_options_that_a_resume_would_ignore_are_refused(
    finished: Path, typed: tuple[str, ...], named: tuple[str, ...], here: Here
) -> None:
    assert_refused(here, ("run", *typed, "--resume", str(finished)), finished, *named)


def test_a_run_that_is_going_on_is_not_resumed_beside_it(tmp_path: Path, here: Here) -> None:
    with roles() as start:
        run = start("run", HEAVY, "--epochs", "500", "--run-dir", str(tmp_path))
        run.wait_for("epoch 0:")
        second = here("run", "--resume", str(tmp_path), cwd=tmp_path)
        assert second.code == 2, second.text
        assert len(second.errors) == 1, second.text
        assert f"its run is still going on, by the broker with process ID {child(run, 'broker').pid}" in second.text
        assert f"autoassist top {tmp_path} shows it" in second.text
        run.terminate()
        run.end()
    assert read_report(tmp_path).status == "stopped"


def test_a_run_that_ends_while_its_resumption_waits_is_finished_and_not_taken_back(tmp_path: Path) -> None:
    """The broker has begun to end, and lives on until its roles have said Goodbye; the weights are written then."""
    with roles() as start:
        run = start("run", "digits", "--epochs", "1", "--run-dir", str(tmp_path))
        assert run.end() == 0, run.text
        weights = (tmp_path / "boss.pt").rename(tmp_path / "later.pt")
        lock = RunLock(tmp_path)
        lock.say_ending()
        second = start("run", "--resume", str(tmp_path))
        second.wait_for("about to end; waiting for it")
        weights.rename(tmp_path / "boss.pt")
        lock.close()
        assert second.end() == 2, second.text
        assert "the run is finished" in second.text
