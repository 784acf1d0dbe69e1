"""``autoassist run``: three kinds of process train a real network on real data, and leave nothing behind."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from pathlib import Path

import psutil
import pytest

from protocol.report import Report, read_report
from tests.processes.heavy_digits import Pace
from tests.processes.roles import DEADLINE_S, HERE, Role, export, roles

pytestmark = pytest.mark.processes
EPOCHS = 5
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Role]:
    """One finished run of digits that several tests look at; its Assistant is in time to take part in it."""
    run_dir = tmp_path_factory.mktemp("run")
    pace = Pace(tmp_path_factory.mktemp("pace"))
    pace.hold()
    with roles() as start:
        words = ("--epochs", str(EPOCHS), "--warmup-epochs", "1", "--run-dir", str(run_dir), "--seed", "3")
        role = start("run", HEAVY, *words, environment=pace.environment)
        role.wait_for("joined the run")
        pace.walk()
        assert role.end() == 0, role.text
    return run_dir, role


def test_a_run_ends_with_a_valid_report(finished: tuple[Path, Role]) -> None:
    report = read_report(finished[0])
    assert isinstance(report, Report)
    assert (report.status, report.policy, report.seed, report.epochs) == ("finished", "autoassist", 3, EPOCHS)
    assert report.selection.offered == EPOCHS * report.n
    assert report.boss.instances == report.selection.kept
    assert report.metric.name == "test_accuracy" and report.metric.value is not None and report.metric.value > 0.9
    assert [row[0] for row in report.metric.history] == list(range(EPOCHS))
    assert report.loss_reports.sent == report.loss_reports.delivered == report.boss.steps
    assert "Boss passes" in finished[1].text


def test_the_first_epoch_trains_every_id_once_and_no_epoch_trains_one_twice(finished: tuple[Path, Role]) -> None:
    report, batches = read_report(finished[0]), export(finished[0])
    trained: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        ids = iter(batch["ids"])
        for segment in batch["segments"]:
            trained.update((segment["epoch"], next(ids)) for _ in range(segment["count"]))
    assert max(trained.values()) == 1
    assert {i for epoch, i in trained if epoch == 0} == set(range(report.n))
    assert sum(trained.values()) == report.selection.kept


def test_staleness_never_exceeds_the_bound_and_unfiltered_batches_have_none(finished: tuple[Path, Role]) -> None:
    report, batches = read_report(finished[0]), export(finished[0])
    stale = [b["staleness"] for b in batches if b["staleness"] is not None]
    assert stale and max(stale) <= report.selection.staleness_steps.bound
    assert max(stale) == report.selection.staleness_steps.max
    for batch in batches:
        learned = [s["learned_through"] for s in batch["segments"]]
        assert (batch["staleness"] is None) == all(through is None for through in learned)


def test_the_loss_history_has_one_loss_for_each_trained_instance(finished: tuple[Path, Role]) -> None:
    losses, batches = export(finished[0], "losses"), export(finished[0])
    assert [row["id"] for row in losses] == [i for batch in batches for i in batch["ids"]]
    assert all(row["loss"] is not None and row["loss"] >= 0 for row in losses)


def test_the_export_is_also_written_as_csv(finished: tuple[Path, Role], tmp_path: Path) -> None:
    target = tmp_path / "batches.csv"
    assert Role("export", str(finished[0]), "--format", "csv", "--output", str(target)).end() == 0
    header, *lines = target.read_text().splitlines()
    assert header.startswith("epoch,step,rank,ids,keep_probabilities,segments,staleness")
    assert len(lines) == read_report(finished[0]).boss.steps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_run_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with roles() as start:
        run = start("run", "digits", "--epochs", "2000", "--run-dir", str(tmp_path))
        run.wait_for("epoch 1:")
        children = psutil.Process(run.process.pid).children(recursive=True)
        run.process.send_signal(number)
        assert run.end() == 128 + number, run.text
        assert len(children) >= 3 and not any(c.is_running() and c.status() != "zombie" for c in children)
    report = read_report(tmp_path)
    assert report.status == "stopped"
    assert report.loss_reports.sent == report.loss_reports.delivered


def test_a_killed_launcher_takes_its_children_with_it_and_the_boss_leaves_a_checkpoint(tmp_path: Path) -> None:
    """Broker and Boss are told to end at the same moment; the broker serves the Boss's last cut all the same."""
    with roles() as start:
        run = start("run", "digits", "--epochs", "2000", "--run-dir", str(tmp_path))
        run.wait_for("epoch 1:")
        children = psutil.Process(run.process.pid).children(recursive=True)
        run.kill()
        _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
        assert len(children) >= 3 and not alive
    assert list((tmp_path / "checkpoints").glob("boss-*.pt"))


def test_the_same_port_can_be_used_again_at_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name in ("first", "second"):
        run = Role("run", "digits", "--epochs", "1", "--run-dir", str(tmp_path / name), "--port", port)
        assert run.end() == 0, run.text


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two deterministic runs of one seed, another one than that of the finished run."""
    folders = (tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"))
    for run_dir in folders:
        run = Role("run", "digits", "--epochs", "4", "--deterministic", "--seed", "1", "--run-dir", str(run_dir))
        assert run.end() == 0, run.text
    return folders


def test_deterministic_runs_of_one_seed_are_the_same_to_the_bit(repeated: tuple[Path, Path]) -> None:
    """The second run has another number of Assistants' worth of luck: what counts is the seed alone."""
    first, second = (export(run_dir) for run_dir in repeated)
    assert first == second
    assert export(repeated[0], "losses") == export(repeated[1], "losses")
    assert any(p < 1.0 for batch in first for p in batch["keep_probabilities"])


def test_another_seed_gives_another_order(finished: tuple[Path, Role], repeated: tuple[Path, Path]) -> None:
    assert export(repeated[0])[0]["ids"] != export(finished[0])[0]["ids"]


def test_a_budget_in_boss_instances_is_met_exactly(tmp_path: Path) -> None:
    run = Role("run", "digits", "--boss-instances", "5000", "--run-dir", str(tmp_path))
    assert run.end() == 0, run.text
    report = read_report(tmp_path)
    assert report.boss.instances == 5000
    assert sum(len(batch["ids"]) for batch in export(tmp_path)) == 5000
