"""What ``autoassist export`` says of real runs: a finished one, one that goes on, one that cannot be written."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autoassist.export import Record, batch_records, window_records
from broker.store import DATABASE, WINDOW_LOG, RunStore
from protocol.report import read_report
from tests.harness.disks import make_read_only, small_disk
from tests.processes.heavy_digits import Pace
from tests.processes.roles import DEADLINE_S, HERE, Role, export, roles

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"
EPOCHS = 6
LOOKS = 20


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of digits that several tests look at; its Assistant is in time to shrink in it."""
    run_dir = tmp_path_factory.mktemp("run")
    pace = Pace(tmp_path_factory.mktemp("pace"))
    pace.hold()
    with roles() as start:
        words = ("--epochs", str(EPOCHS), "--run-dir", str(run_dir), "--seed", "7")
        role = start("run", HEAVY, *words, environment=pace.environment)
        role.wait_for("joined the run")
        pace.walk()
        assert role.end() == 0, role.text
    return run_dir


def offered(windows: list[Record]) -> Counter[tuple[int, int]]:
    """How often each (epoch, ID) was offered."""
    return Counter((window["epoch"], i) for window in windows for i in window["ids"])


def trained_of(batches: list[Record]) -> dict[int, list[tuple[int, int]]]:
    """The (epoch, ID) trained from the plan, by window."""
    trained: dict[int, list[tuple[int, int]]] = {}
    for batch in batches:
        ids = iter(batch["ids"])
        for segment in batch["segments"]:
            found = trained.setdefault(segment["window"], [])
            found.extend((segment["epoch"], next(ids)) for _ in range(segment["count"]))
    return trained


def test_every_id_is_offered_exactly_once_per_epoch(finished: Path) -> None:
    windows, n = export(finished, "windows"), read_report(finished).n
    assert offered(windows) == {(epoch, i): 1 for epoch in range(EPOCHS) for i in range(n)}
    assert sorted(window["window"] for window in windows) == list(range(len(windows)))


def test_of_each_window_as_many_of_its_own_ids_are_trained_as_were_kept(finished: Path) -> None:
    """All of them where the window was reopened, since its selection had become too stale."""
    windows, trained, report = export(finished, "windows"), trained_of(export(finished)), read_report(finished)
    reopened = 0
    for window in windows:
        found = trained.get(window["window"], [])
        assert set(found) <= {(window["epoch"], i) for i in window["ids"]}
        assert len(set(found)) == len(found)
        if len(found) != window["kept"]:
            assert len(found) == len(window["ids"])
            reopened += 1
    assert set(trained) <= {window["window"] for window in windows}
    assert reopened <= report.selection.reopened_windows
    assert sum(len(found) for found in trained.values()) == report.selection.kept


def test_a_window_names_its_assistant_or_why_it_passed_unfiltered(finished: Path) -> None:
    report, windows = read_report(finished), export(finished, "windows")
    reasons = Counter(window["reason"] for window in windows if window["reason"])
    assert reasons == report.selection.unfiltered_windows
    for window in windows:
        unfiltered = window["assistant"] == "unfiltered"
        assert unfiltered == (window["reason"] is not None) == (window["learned_through"] is None)
        assert not unfiltered or window["kept"] == len(window["ids"])
    assert {window["assistant"] for window in windows} - {"unfiltered"} == {"assistant-0"}
    assert any(window["kept"] < len(window["ids"]) for window in windows)


def test_a_run_that_was_taken_back_to_a_checkpoint_offers_every_id_once_all_the_same(
    tmp_path: Path, pace: Pace
) -> None:
    """The Boss is killed well after its checkpoint: what was decided since then is decided again."""
    epochs = 20
    words = ("--epochs", str(epochs), "--checkpoint-every", "20", "--run-dir", str(tmp_path))
    with roles() as start:
        run = start("run", HEAVY, *words, environment=pace.environment)
        run.wait_for("epoch 3:")
        run.kill()
        pace.hurry()
        resumed = start("run", "--resume", str(tmp_path), environment=pace.environment)
        assert resumed.end() == 0, resumed.text
    assert "resuming from the checkpoint" in resumed.text
    windows, n = export(tmp_path, "windows"), read_report(tmp_path).n
    assert offered(windows) == {(epoch, i): 1 for epoch in range(epochs) for i in range(n)}


def at_one_moment(run_dir: Path) -> tuple[list[Record], list[Record]]:
    """Batches and windows of one opening of the store."""
    store = RunStore(run_dir, writable=False)
    try:
        return list(batch_records(store)), list(window_records(store))
    finally:
        store.close()


def test_a_running_run_is_exported_without_holes_and_without_doubles(tmp_path: Path) -> None:
    """While the broker commits as fast as the Boss trains: the steps, and that what is trained was offered."""
    with roles() as start:
        run = start("run", "digits", "--epochs", "2000", "--run-dir", str(tmp_path))
        run.wait_for("epoch 1:")
        seen, deadline = list[int](), time.monotonic() + DEADLINE_S
        while len(seen) < LOOKS or (seen[-1] == seen[0] and time.monotonic() < deadline):
            batches, windows = at_one_moment(tmp_path)
            assert [batch["step"] for batch in batches] == list(range(len(batches)))
            decided = offered(windows)
            trained = {pair for pairs in trained_of(batches).values() for pair in pairs}
            assert max(decided.values()) == 1 and trained <= decided.keys()
            seen.append(len(batches))
        assert run.process.poll() is None
        steps = [batch["step"] for batch in export(tmp_path)]
        assert steps == list(range(len(steps)))
        run.terminate()
        run.end()
    assert seen == sorted(seen) and seen[-1] > seen[0], "nothing was written meanwhile"


def test_a_run_on_a_read_only_disk_is_exported_as_it_is(finished: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "image", "16m") as mount:
        shutil.copytree(finished, mount / "run")
        make_read_only(mount)
        for what in ("batches", "losses", "windows"):
            role = Role("export", str(mount / "run"), "--what", what)
            assert role.end() == 0, role.text
            assert [json.loads(line) for line in role.said] == export(finished, what)


def test_what_an_earlier_version_kept_no_log_of_is_said_to_be_missing(finished: Path, tmp_path: Path) -> None:
    """The export is empty, which is not to be taken for a run that offered nothing."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / WINDOW_LOG).unlink()
    database = sqlite3.connect(run_dir / DATABASE)
    database.execute("DELETE FROM logs WHERE name = ?", (WINDOW_LOG,))
    database.commit()
    database.close()
    role = Role("export", str(run_dir), "--what", "windows")
    assert role.end() == 0, role.text
    (words,) = role.said
    count = len(export(finished, "windows"))
    assert f"{count} of {count} windows were decided by an earlier version" in words


def test_windows_are_also_written_as_csv(finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "windows.csv"
    words: tuple[Any, ...] = ("--what", "windows", "--format", "csv", "--output", str(target))
    assert Role("export", str(finished), *words).end() == 0
    header, *lines = target.read_text().splitlines()
    assert header == "window,epoch,assistant,version,learned_through,reason,kept,ids"
    assert len(lines) == len(export(finished, "windows"))
