"""The run store: what is committed survives anything, what is not leaves no trace, and errors name a remedy."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from broker import run_lock
from broker.core import BrokerCore
from broker.effects import AppendBatch, AppendLoss, AppendWindow, Delete, Put
from broker.rows import EpochRow, PeerRow, RunRow, StepRow, WindowRecord, encode_row
from broker.run_lock import RunLock
from broker.segments import INDEX_EVERY
from broker.store import BATCH_LOG, DATABASE, LOGS, LOSS_LOG, WINDOW_LOG, RunStore, reading, stored_rows
from broker.store_errors import OutOfFiles
from protocol.errors import StoreError, UserError
from protocol.messages import Batch, LossRecord, Segment
from protocol.settings import RunSettings
from tests.harness.disks import make_read_only, resize, small_disk


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


def opened(run_dir: Path, **options: Any) -> RunStore:
    return RunStore(run_dir, **options)


def epoch(number: int, **fields: Any) -> Put:
    return Put("epoch", str(number), EpochRow(epoch=number, **fields))


def run_row() -> Put:
    row = RunRow(run_id="run-1", settings=RunSettings(epochs=2, batch_size=4), dataset_id="data:1", n=100)
    row.counters["reports_delivered"] = 3
    row.staleness_counts[7] = 2
    return Put("run", "run", row)


def loss(position: int, size: int = 3) -> AppendLoss:
    ids = np.arange(position, position + size, dtype=np.int64)
    return AppendLoss(
        LossRecord(
            position=position, step=position, rank=0, learned_through=position, epoch=0, ids=ids,
            losses=ids.astype(np.float32) / 3, keep_probabilities=np.full(size, 0.25, np.float32),
        )
    )  # fmt: skip


def batch(step: int) -> AppendBatch:
    ids = np.arange(4, dtype=np.int64)
    segments = [Segment(count=4, epoch=0, window=step, assistant="a", version=2, learned_through=step - 3)]
    return AppendBatch(
        Batch(
            step=step, epoch=0, progress=0.5, ids=ids, keep_probabilities=np.ones(4, np.float32), rank_counts=[4],
            segments=segments,
        )
    )  # fmt: skip


def window(number: int) -> AppendWindow:
    ids = np.arange(8 * number, 8 * number + 8, dtype=np.int64)
    return AppendWindow(
        WindowRecord(window=number, epoch=1, ids=ids, kept=5, assistant="a", version=2, learned_through=number - 3)
    )


Content = tuple[dict[str, bytes], list[int], list[int], list[int]]


def content(store: RunStore) -> Content:
    """Rows, positions in the loss log, steps in the batch log, windows in the window log."""
    rows = {f"{kind}/{i}": encode_row(row) for i, (kind, row) in enumerate(sorted(store.rows(), key=str))}
    return (
        rows,
        [r.position for r in store.loss_records()],
        [b.step for b in store.finished_batches()],
        [w.window for w in store.decided_windows()],
    )


def filled(run_dir: Path, *, records: int = 5) -> Content:
    """A store with something in it, closed; what it holds."""
    store = opened(run_dir)
    for position in range(records):
        store.append(loss(position))
        store.append(batch(position))
        store.append(window(position))
    store.commit([run_row(), epoch(0, offered=7), epoch(1)])
    held = content(store)
    store.close()
    return held


# What survives


def test_rows_and_logs_survive_close_and_reopen_to_the_bit(run_dir: Path) -> None:
    """The broker is stopped in the evening and started in the morning."""
    store = opened(run_dir)
    store.append(loss(0))
    store.append(batch(0))
    store.append(window(0))
    store.append(AppendWindow(WindowRecord(window=1, epoch=1, ids=np.arange(3), kept=3, reason="urgent")))
    store.commit(
        [run_row(), epoch(0, offered=7), Put("peer", "a", PeerRow(name="a", role="assistant", incarnation="i"))]
    )
    store.close()
    store = opened(run_dir)
    rows = dict(store.rows())
    assert encode_row(rows["epoch"]) == encode_row(EpochRow(epoch=0, offered=7))
    run = rows["run"]
    assert isinstance(run, RunRow) and run.settings == RunSettings(epochs=2, batch_size=4)
    assert run.counters == {"reports_delivered": 3.0} and run.staleness_counts == {7: 2}
    (record,), (finished,) = list(store.loss_records()), list(store.finished_batches())
    assert record.losses.tobytes() == loss(0).record.losses.tobytes()
    assert finished.segments == batch(0).batch.segments
    decided, unfiltered = list(store.decided_windows())
    assert encode_row(decided) == encode_row(window(0).record) and decided.ids.dtype == np.int64
    assert (unfiltered.assistant, unfiltered.learned_through, unfiltered.reason) == ("", None, "urgent")
    store.close()


def test_a_new_directory_is_made_and_holds_nothing(run_dir: Path) -> None:
    """The first start, with a --run-dir whose parents do not exist either."""
    store = opened(run_dir)
    assert content(store) == ({}, [], [], [])
    store.close()


@pytest.mark.parametrize("name", ["50% done", "what?", "a#b", "Läufe/ä", "a&mode=ro"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    """SQLite is given a URI, in which some characters mean something."""
    held = filled(tmp_path / name)
    assert (tmp_path / name / DATABASE).exists()
    for writable in (True, False):
        store = opened(tmp_path / name, writable=writable)
        assert content(store) == held
        store.close()


def test_of_several_changes_to_a_row_in_one_commit_the_last_counts(run_dir: Path) -> None:
    """A window is leased, selected and used up within one iteration of the loop."""
    store = opened(run_dir)
    store.commit([epoch(0, offered=1), epoch(1), epoch(0, offered=2), Delete("epoch", "1"), Delete("epoch", "2")])
    store.commit([epoch(3), Delete("epoch", "3"), epoch(3, offered=9)])
    held = [row for _, row in store.rows()]
    assert sorted((r.epoch, r.offered) for r in held if isinstance(r, EpochRow)) == [(0, 2), (3, 9)]
    store.close()


def test_a_row_is_written_as_it_stands_at_the_commit(run_dir: Path) -> None:
    """Effects carry the row itself, which later events of the same iteration go on changing."""
    store = opened(run_dir)
    change = epoch(0, offered=1)
    assert isinstance(change.row, EpochRow)
    change.row.offered = 5
    store.commit([change])
    assert [r.offered for _, r in store.rows() if isinstance(r, EpochRow)] == [5]
    store.close()


# kill -9


def test_what_was_appended_and_not_committed_is_gone_after_a_kill(run_dir: Path, tmp_path: Path) -> None:
    """Killed between the log's append and the commit: the prefix is what the next broker finds."""
    store = opened(run_dir)
    store.append(loss(0))
    store.commit([epoch(0)])
    before = content(store)
    store.append(loss(1))
    store.append(batch(0))
    store.append(window(0))
    store.losses.flush()
    store.batches.flush()
    store.windows.flush()
    shutil.copytree(run_dir, tmp_path / "killed")
    store.commit([epoch(0, offered=3)])
    after = content(store)
    store.close()
    killed = opened(tmp_path / "killed")
    assert content(killed) == before != after
    killed.append(loss(1))
    killed.commit([])
    assert [r.position for r in killed.loss_records()] == [0, 1]
    killed.close()


def test_a_record_that_is_half_written_beyond_the_committed_length_is_cut_off(run_dir: Path) -> None:
    """The disk was full in the middle of a record, or the process was killed there."""
    held = filled(run_dir)
    for name in LOGS:
        whole = (run_dir / name).stat().st_size
        with (run_dir / name).open("ab") as file:
            file.write((1 << 20).to_bytes(4, "little") + b"half a record")
        store = opened(run_dir)
        assert content(store) == held
        store.close()
        assert (run_dir / name).stat().st_size == whole


@pytest.mark.processes
def test_a_real_kill_between_any_two_steps_leaves_a_prefix(run_dir: Path) -> None:
    """A process is killed with SIGKILL while it commits as fast as it can: rows and all logs agree afterwards."""
    script = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from tests.unit.broker.test_store import *
store = RunStore(Path({str(run_dir)!r}))
for step in range(10**6):
    store.append(loss(step)); store.append(batch(step)); store.append(window(step))
    store.commit([epoch(0, offered=step + 1)])
    if step == 20: print("going", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    process.kill()
    process.wait()
    process.stdout.close()
    store = opened(run_dir)
    (row,) = [row for _, row in store.rows() if isinstance(row, EpochRow)]
    assert row.offered > 20
    assert [r.position for r in store.loss_records()] == list(range(row.offered))
    assert [b.step for b in store.finished_batches()] == list(range(row.offered))
    assert [w.window for w in store.decided_windows()] == list(range(row.offered))
    store.close()


# Going back, and coming from an earlier version


def test_a_restored_snapshot_takes_rows_and_all_logs_back(run_dir: Path) -> None:
    """The Boss resumes from the checkpoint of step 1: what came after is gone, and appending goes on from there."""
    store = opened(run_dir)
    for step in range(3):
        for effect in (loss(step), batch(step), window(step)):
            store.append(effect)
        store.commit([epoch(0, offered=step)], snapshot=step)
        if step == 1:
            held = content(store)
    store.restore_snapshot(1)
    assert content(store) == held
    store.append(window(7))
    store.commit([])
    store.close()
    store = opened(run_dir, writable=False)
    assert content(store)[3] == [0, 1, 7]
    store.close()


def without_window_log(run_dir: Path) -> None:
    """Make a run directory what an earlier version has left, which kept no log of windows."""
    (run_dir / WINDOW_LOG).unlink()
    database = sqlite3.connect(run_dir / DATABASE)
    for table in ("logs", "snapshot_logs"):
        database.execute(f"DELETE FROM {table} WHERE name = ?", (WINDOW_LOG,))
    database.commit()
    database.close()


def test_a_run_of_an_earlier_version_without_a_window_log_opens_with_an_empty_one(run_dir: Path) -> None:
    """It is exported, then goes on with this version, then is taken back to a checkpoint of before."""
    store = opened(run_dir)
    store.append(loss(0))
    store.commit([epoch(0)], snapshot=0)
    store.close()
    without_window_log(run_dir)
    for writable in (False, True):
        store = opened(run_dir, writable=writable)
        assert content(store)[1:] == ([0], [], [])
        store.close()
    store = opened(run_dir)
    store.append(window(4))
    store.commit([])
    assert content(store)[1:] == ([0], [], [4])
    store.restore_snapshot(0)
    assert content(store)[1:] == ([0], [], [])
    store.close()


# Damage


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("left", ["nothing", "all but a byte", "no file"])
def test_a_log_shorter_than_its_committed_length_is_an_error_that_names_file_and_remedy(
    run_dir: Path, name: str, left: str
) -> None:
    """Somebody has copied a run directory without its logs, or a disk has lost the end of one."""
    filled(run_dir)
    path = run_dir / name
    size = path.stat().st_size
    if left == "no file":
        path.unlink()
    else:
        os.truncate(path, 0 if left == "nothing" else size - 1)
    for writable in (False, True):
        with pytest.raises(StoreError) as caught:
            opened(run_dir, writable=writable)
        assert str(path) in str(caught.value) and str(size) in str(caught.value)
        assert "--run-dir" in str(caught.value)


def test_a_log_whose_records_do_not_add_up_to_its_length_is_an_error(run_dir: Path) -> None:
    """A length inside the file was overwritten."""
    filled(run_dir)
    with (run_dir / LOSS_LOG).open("r+b") as file:
        file.write((2**31).to_bytes(4, "little"))
    with pytest.raises(StoreError, match="last record is cut off"):
        opened(run_dir)


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("junk", [b"\x00", b"\xff", b"\xc1"])
def test_a_damaged_record_is_an_error_when_it_is_read(run_dir: Path, junk: bytes, name: str) -> None:
    """Bytes in the middle of a record are wrong."""
    filled(run_dir)
    with (run_dir / name).open("r+b") as file:
        file.seek(4)
        file.write(junk * 20)
    store = opened(run_dir)
    log: Any = {LOSS_LOG: store.losses, BATCH_LOG: store.batches, WINDOW_LOG: store.windows}[name]
    with pytest.raises(StoreError, match=r"record 0 is damaged.*--run-dir"):
        list(log.read())
    assert len(list(log.read(1))) == 4
    store.close()


def test_a_record_of_another_kind_is_damage(run_dir: Path) -> None:
    """Somebody has mixed up the files."""
    store = opened(run_dir)
    store.losses.append(batch(0).batch)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"record 0 is damaged.*a Batch where a LossRecord is expected"):
        next(store.loss_records())
    store.close()


@pytest.mark.parametrize("damage", ["not a database", "unknown kind", "not a row", "row of another kind"])
def test_a_damaged_database_is_an_error_that_names_directory_and_remedy(run_dir: Path, damage: str) -> None:
    """Another program wrote there, or a later version of this one."""
    filled(run_dir)
    if damage == "not a database":
        for extra in run_dir.glob(DATABASE + "-*"):
            extra.unlink()
        (run_dir / DATABASE).write_bytes(b"this is no database" * 1000)
    else:
        row = {
            "unknown kind": ("later", b"\x80"),
            "not a row": ("epoch", b"\xc1"),
            "row of another kind": ("run", b"\x80"),
        }
        database = sqlite3.connect(run_dir / DATABASE)
        database.execute("INSERT INTO rows VALUES (?, 'x', ?)", row[damage])
        database.commit()
        database.close()
    with pytest.raises(StoreError) as caught:
        store = opened(run_dir)
        try:
            store.rows()
        finally:
            store.close()
    assert f"{run_dir} is damaged: " in str(caught.value) and "another run directory" in str(caught.value)


def closed(run_dir: Path) -> Path:
    """The database of a run that nobody serves any more: all of it in one file."""
    filled(run_dir)
    with closing(sqlite3.connect(run_dir / DATABASE)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return run_dir / DATABASE


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("damage", ["overwritten", "cut off", "emptied"])
def test_a_database_that_was_overwritten_or_cut_off_is_called_damaged_by_broker_and_reader(
    run_dir: Path, damage: str, writable: bool
) -> None:
    """A disk has failed. That the directory were not writable, or not readable, would be no help."""
    path = closed(run_dir)
    whole = path.read_bytes()
    path.write_bytes({"overwritten": b"x" * 100 + whole[100:], "cut off": whole[:1500], "emptied": b""}[damage])
    said = f"{run_dir} is damaged: .*; choose another run directory, or put a backup of all its files in its place"
    with pytest.raises(StoreError, match=said):
        opened(run_dir, writable=writable)


def test_logs_whose_database_is_gone_are_not_cut_to_nothing(run_dir: Path) -> None:
    """To a broker that is started there it looks like a new run's directory, but for the logs."""
    path = closed(run_dir)
    before = (run_dir / LOSS_LOG).read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{DATABASE} is empty or gone, {LOSS_LOG} is not"):
            opened(run_dir)
    assert (run_dir / LOSS_LOG).read_bytes() == before != b""


def test_damage_that_is_met_by_a_commit_is_no_full_disk(run_dir: Path) -> None:
    store = opened(run_dir)
    with closing(sqlite3.connect(run_dir / DATABASE)) as database:
        database.execute("DROP TABLE logs")
    store.append(loss(0))
    with pytest.raises(StoreError, match="is damaged: no such table: logs; choose another"):
        store.commit([])
    store.close()


# Disks that do not take it


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small_disk(tmp_path / "tiny", "1m") as mount:
        yield mount


def fill_until_error(store: RunStore, most: int = 100_000) -> tuple[StoreError, int]:
    """Append and commit until the disk is full; the error, and how many commits were made."""
    for step in range(most):
        try:
            store.append(loss(step, size=64))
            store.commit([epoch(0, offered=step + 1)])
        except StoreError as error:
            return error, step
    raise AssertionError("the disk is never full")


def test_a_full_disk_is_an_error_with_a_remedy_and_all_that_was_committed_is_safe(tiny_disk: Path) -> None:
    """The disk is full; space is freed; the broker starts again where it stood."""
    store = opened(tiny_disk / "run")
    error, committed = fill_until_error(store)
    assert str(tiny_disk / "run") in str(error) and "free space" in str(error)
    assert committed > 10
    store.close()
    resize(tiny_disk, "4m")
    store = opened(tiny_disk / "run")
    assert [r.position for r in store.loss_records()] == list(range(committed))
    assert [r.offered for _, r in store.rows() if isinstance(r, EpochRow)] == [committed]
    store.append(loss(committed))
    store.commit([epoch(0, offered=committed + 1)])
    store.close()


def test_a_database_that_cannot_grow_is_the_same_error_and_nothing_of_the_commit_is_there(run_dir: Path) -> None:
    """The log still found room, SQLite did not: the log's new bytes are cut off at the next start."""
    store = opened(run_dir)
    store.append(loss(0))
    store.commit([epoch(0)])
    store._db.execute(f"PRAGMA max_page_count = {store._db.execute('PRAGMA page_count').fetchone()[0]}")
    store.append(loss(1))
    big = PeerRow(name="x" * 100_000, role="boss", incarnation="i")
    with pytest.raises(StoreError, match=r"cannot be written: database or disk is full; free space"):
        store.commit([epoch(0, offered=9), Put("peer", "x", big)])
    store.close()
    store = opened(run_dir)
    assert [r.position for r in store.loss_records()] == [0]
    assert [r.offered for _, r in store.rows() if isinstance(r, EpochRow)] == [0]
    store.close()


def test_a_commit_that_fails_halfway_leaves_nothing_of_itself(run_dir: Path) -> None:
    """The first row was written, the second was not: neither is there, and the process that tried goes on reading."""
    store = opened(run_dir)
    store.commit([epoch(0, offered=1)])
    store._db.execute(
        "CREATE TRIGGER fault BEFORE INSERT ON rows WHEN NEW.kind = 'peer' BEGIN SELECT RAISE(ABORT, 'fault'); END"
    )
    peer = Put("peer", "a", PeerRow(name="a", role="boss", incarnation="i"))
    with pytest.raises(StoreError, match="fault"):
        store.commit([epoch(0, offered=2), epoch(1), peer])
    for _ in range(2):
        assert [(r.epoch, r.offered) for _, r in store.rows() if isinstance(r, EpochRow)] == [(0, 1)]
        store.close()
        store = opened(run_dir)
    store.close()


def test_a_log_that_cannot_be_written_is_the_same_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC from the operating system when the buffer is flushed, and again when the file is closed."""
    store = opened(run_dir)
    store.append(loss(0))
    store.commit([epoch(0)])
    read_only = os.open(run_dir / LOSS_LOG, os.O_RDONLY)
    os.dup2(read_only, store.losses._file.fileno())
    os.close(read_only)
    store.append(loss(1))
    with pytest.raises(StoreError, match="free space"):
        store.commit([epoch(0, offered=9)])
    store.close()
    store = opened(run_dir)
    assert [r.offered for _, r in store.rows() if isinstance(r, EpochRow)] == [0]
    store.close()


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with runs on it that is mounted read-only: "run" was closed, "killed" and "copied" were not.

    Their last commits stand in SQLite's WAL alone; of "copied" somebody has left out the index beside it.
    """
    filled(tmp_path / "live")
    store = opened(tmp_path / "live")
    store.append(loss(5))
    store.commit([epoch(2)])
    with small_disk(tmp_path / "read-only", "4m") as mount:
        filled(mount / "run")
        for name in ("killed", "copied"):
            shutil.copytree(tmp_path / "live", mount / name)
        (mount / "copied" / f"{DATABASE}-shm").unlink()
        make_read_only(mount)
        yield mount
    store.close()


@pytest.mark.parametrize("name, records", [("run", 5), ("killed", 6), ("copied", 6)])
def test_a_run_on_a_read_only_disk_can_be_read_with_all_that_was_committed(
    read_only_disk: Path, name: str, records: int
) -> None:
    """``autoassist export`` of a run on a mounted image; also of one whose broker was killed."""
    store = opened(read_only_disk / name, writable=False)
    rows, *logs = content(store)
    assert logs == [list(range(records)), list(range(5)), list(range(5))]
    assert len(rows) == records - 2
    store.close()


def test_a_read_only_disk_is_an_error_with_a_remedy(read_only_disk: Path) -> None:
    """--run-dir points into a mounted image."""
    for name in ("run", "new"):
        with pytest.raises(StoreError) as caught:
            opened(read_only_disk / name)
        assert str(read_only_disk / name) in str(caught.value)
        assert "give a writable --run-dir" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_an_error_with_a_remedy(run_dir: Path) -> None:
    """Another user's run."""
    filled(run_dir)
    run_dir.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StoreError, match="give a writable --run-dir"):
        opened(run_dir)
    run_dir.chmod(stat.S_IRWXU)


def test_a_run_dir_that_is_a_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """--run-dir names the report inside."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="give a writable --run-dir"):
        opened(tmp_path / "file")


# One broker at a time


def test_a_second_broker_on_the_same_directory_is_refused_until_the_first_has_closed_it(run_dir: Path) -> None:
    """The command was called again in another terminal."""
    first = opened(run_dir)
    for _ in range(2):
        process = os.getpid()
        with pytest.raises(
            UserError, match=rf"still going on, .* ID {process}; autoassist top .* kill {process} stops it"
        ):
            opened(run_dir)
    first.append(loss(0))
    first.commit([epoch(0)])
    first.close()
    second = opened(run_dir)
    assert content(second)[1] == [0]
    second.close()


def content_of(run_dir: Path) -> Content:
    store = opened(run_dir)
    try:
        return content(store)
    finally:
        store.close()


def test_a_broker_waits_for_one_that_is_about_to_end(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher was killed, and its run is resumed while its broker still waits for Goodbyes."""
    waits = threading.Event()
    monkeypatch.setattr(run_lock.log, "info", lambda *words: waits.set())
    first = opened(run_dir)
    first.append(loss(0))
    first.say_ending()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(content_of, run_dir)
        assert waits.wait(30) and not second.done()
        first.commit([epoch(0)])
        first.close()
        assert second.result(30)[1] == [0], "it reads what the first one wrote until its end"


def test_a_broker_that_does_not_end_is_not_waited_for_for_ever(run_dir: Path) -> None:
    first = opened(run_dir)
    first.say_ending()
    with pytest.raises(UserError, match="still going on"):
        RunLock(run_dir, patience_s=0.01)
    first.close()


def test_a_store_that_could_not_be_opened_does_not_keep_the_directory(run_dir: Path) -> None:
    """The user mends the log; the same process tries again."""
    filled(run_dir)
    whole = (run_dir / LOSS_LOG).read_bytes()
    os.truncate(run_dir / LOSS_LOG, 3)
    with pytest.raises(StoreError):
        opened(run_dir)
    (run_dir / LOSS_LOG).write_bytes(whole)
    store = opened(run_dir)
    assert len(list(store.loss_records())) == 5
    store.close()


def test_a_reader_sees_the_committed_state_while_the_broker_goes_on(run_dir: Path) -> None:
    """``autoassist export`` of a running run; it neither locks nor cuts."""
    writer = opened(run_dir)
    writer.append(loss(0))
    writer.commit([epoch(0)])
    writer.append(loss(1))
    writer.losses.flush()
    reader = opened(run_dir, writable=False)
    assert content(reader)[1] == [0]
    writer.commit([epoch(1)])
    assert content(writer)[1] == [0, 1]
    with pytest.raises(StoreError):
        reader.commit([epoch(2)])
    reader.close()
    writer.close()


def test_a_reader_sees_rows_and_logs_of_one_moment(run_dir: Path) -> None:
    """A step is finished between two looks of ``autoassist export``: it moves from the rows to the log."""
    writer = opened(run_dir)
    writer.append(batch(0))
    writer.commit([Put("step", "1", StepRow(batch=batch(1).batch))])
    reader = opened(run_dir, writable=False)
    writer.append(batch(1))
    writer.commit([Delete("step", "1"), Put("step", "2", StepRow(batch=batch(2).batch))])
    waiting = [row.batch.step for _, row in reader.rows() if isinstance(row, StepRow)]
    assert [b.step for b in reader.finished_batches()] + waiting == [0, 1]
    reader.close()
    writer.close()


def test_a_reader_that_lingers_does_not_keep_the_database_from_being_tidied(run_dir: Path) -> None:
    """``autoassist export | less`` is left open overnight: the WAL can still be written back whole."""
    writer = opened(run_dir)
    writer.commit([epoch(0)])
    reader = opened(run_dir, writable=False)
    writer.commit([epoch(1)])
    busy, frames, moved = writer._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, frames) == (0, moved)
    reader.close()
    writer.close()


def files_of(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


def only_rows(run_dir: Path) -> None:
    stored_rows(run_dir)


def whole_run(run_dir: Path) -> None:
    with closing(opened(run_dir, writable=False)) as reader:
        content(reader)


@pytest.mark.parametrize("look", [only_rows, whole_run])
def test_looking_at_a_run_that_nobody_serves_leaves_no_files_in_it(run_dir: Path, look: Callable[[Path], None]) -> None:
    """A finished run may be a backup's, whose files are compared."""
    filled(run_dir)
    before = files_of(run_dir)
    look(run_dir)
    assert files_of(run_dir) == before and f"{DATABASE}-wal" not in before


def test_an_empty_wal_that_an_earlier_reader_has_left_is_no_reason_to_write(run_dir: Path) -> None:
    held = filled(run_dir)
    (run_dir / f"{DATABASE}-wal").touch()
    with closing(opened(run_dir, writable=False)) as reader:
        assert content(reader) == held
    assert not (run_dir / f"{DATABASE}-shm").exists()


def test_a_reader_of_a_run_that_is_served_sees_what_its_broker_commits_next(run_dir: Path) -> None:
    """Also where the WAL has just been emptied, so that it looks like one that is over."""
    filled(run_dir)
    with closing(opened(run_dir)) as writer:
        writer._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with reading(run_dir) as db:
            writer.commit([epoch(7)])
            assert ("7",) in db.execute("SELECT key FROM rows WHERE kind = 'epoch'").fetchall()


def test_a_broker_that_begins_while_a_run_is_read_is_in_nobodys_way(run_dir: Path) -> None:
    """What is read is the run as it was before."""
    filled(run_dir)
    with reading(run_dir) as db, closing(opened(run_dir)) as writer:
        writer.commit([epoch(7)])
        assert ("7",) not in db.execute("SELECT key FROM rows WHERE kind = 'epoch'").fetchall()
    assert len(stored_rows(run_dir)) == 4


def test_what_a_killed_broker_has_left_in_the_wal_alone_is_read(run_dir: Path, tmp_path: Path) -> None:
    writer = opened(run_dir)
    writer.append(loss(0))
    writer.commit([epoch(0)])
    shutil.copytree(run_dir, tmp_path / "killed")
    held = content(writer)
    writer.close()
    with closing(opened(tmp_path / "killed", writable=False)) as reader:
        assert content(reader) == held


def test_a_reader_of_no_run_says_so(tmp_path: Path) -> None:
    """A mistyped directory is not made by looking into it."""
    with pytest.raises(UserError, match=r"holds no run.*give the --run-dir of a run"):
        opened(tmp_path / "nothing", writable=False)
    assert not (tmp_path / "nothing").exists()


# Random access


def test_any_stretch_of_a_log_can_be_read_across_the_index_before_and_after_reopening(run_dir: Path) -> None:
    """An Assistant that joins late asks for records from the middle."""
    total = 3 * INDEX_EVERY + 7
    store = opened(run_dir)
    for position in range(total):
        store.append(loss(position, size=position % 5))
    places = [0, 1, INDEX_EVERY - 1, INDEX_EVERY, INDEX_EVERY + 1, 2 * INDEX_EVERY, total - 1, total, total + 5]
    for _ in range(2):
        for start in places:
            for stop in places:
                found = list(store.loss_records(start, stop))
                assert [r.position for r in found] == list(range(start, min(stop, total)))
                assert all(len(r.ids) == r.position % 5 for r in found)
        store.commit([])
        store.close()
        store = opened(run_dir)
    store.close()


def test_records_can_be_read_before_they_are_committed_and_appending_goes_on_behind(run_dir: Path) -> None:
    """A record is logged and replayed to a newcomer within one iteration."""
    store = opened(run_dir)
    for position in range(INDEX_EVERY + 3):
        store.append(loss(position))
        assert [r.position for r in store.loss_records(position)] == [position]
        assert [r.position for r in store.loss_records(0, 1)] == [0]
    store.commit([])
    assert [r.position for r in store.loss_records()] == list(range(INDEX_EVERY + 3))
    store.close()


def test_a_core_is_rebuilt_from_what_the_store_gives_back(run_dir: Path) -> None:
    """The two halves of a restart fit together."""
    filled(run_dir)
    store = opened(run_dir)
    core = BrokerCore.from_rows("", store.rows())
    assert core.run_id == "run-1" and set(core.state.epochs) == {0, 1}
    store.close()


def test_what_one_commit_appends_to_a_log_is_written_in_one_piece(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the operating system for each record would cost more than to make the record."""
    write = Mock(wraps=os.pwrite)
    monkeypatch.setattr("broker.segments.os.pwrite", write)
    with closing(opened(run_dir)) as store:
        for position in range(9):
            store.append(loss(position))
        store.commit([])
        assert write.call_count == 1
        assert [r.position for r in store.loss_records()] == list(range(9))


def test_what_the_operating_system_writes_in_parts_is_whole(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr("broker.segments.os.pwrite", lambda file, raw, offset: pwrite(file, raw[:100], offset))
    with closing(opened(run_dir)) as store:
        for position in range(9):
            store.append(loss(position))
            store.commit([])
            assert [r.position for r in store.loss_records(position)] == [position]
        assert [r.position for r in store.loss_records()] == list(range(9))


def test_a_step_cut_and_another_one_logged_cost_the_disk_little_more_than_themselves(run_dir: Path) -> None:
    """SQLite writes whole pages, those that are given free too where it is built to write over what is deleted."""
    batch = Batch(
        step=0,
        epoch=0,
        progress=0.0,
        ids=np.arange(128),
        keep_probabilities=np.ones(128, dtype=np.float32),
        rank_counts=[128],
        segments=[],
    )
    wal = run_dir / f"{DATABASE}-wal"
    with closing(opened(run_dir)) as store:
        store.commit([Put("step", str(step), StepRow(batch=batch)) for step in range(40)])
        before = wal.stat().st_size
        for step in range(20):
            store.commit([Put("step", str(40 + step), StepRow(batch=batch)), Delete("step", str(step))])
        assert (wal.stat().st_size - before) / 20 < 9_000  # the new row is 1.7 kB


def test_the_last_records_are_not_read_again_and_older_ones_are(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Assistant that was out of credit for a moment asks for them. What is kept of them is bounded."""
    monkeypatch.setattr("broker.recent.INSTANCES", 0)
    with closing(opened(run_dir)) as store:
        for position in range(9):
            store.append(loss(position))
        reads = Mock(wraps=store.losses.read)
        monkeypatch.setattr(store.losses, "read", reads)
        assert [r.position for r in store.loss_records(7, 9)] == [7, 8], "those of the last two steps"
        assert reads.call_count == 0
        assert [r.position for r in store.loss_records(6, 9)] == [6, 7, 8]
        assert [r.position for r in store.loss_records(7)] == [7, 8]
        assert reads.call_count == 2


def test_a_store_that_cannot_even_say_what_snapshots_it_has_is_said_to_be_damaged(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(run_dir)) as store:
        monkeypatch.setattr(store, "snapshots", Mock(side_effect=sqlite3.DatabaseError("malformed")))
        with pytest.raises(StoreError, match=str(run_dir)):
            store.restore_snapshot(1)


def test_records_beyond_a_checkpoint_are_gone_when_the_run_is_taken_back(run_dir: Path) -> None:
    with closing(opened(run_dir)) as store:
        for position in range(4):
            store.append(loss(position))
            store.commit([], snapshot=position)
        store.restore_snapshot(1)
        assert [r.position for r in store.loss_records(1, 4)] == [1]
        store.append(loss(2))
        assert [r.position for r in store.loss_records(1, 3)] == [1, 2]


def test_rows_are_read_without_a_look_at_the_logs(run_dir: Path) -> None:
    with closing(opened(run_dir)) as store:
        store.append(loss(0))
        store.commit([run_row()])
    (run_dir / LOSS_LOG).unlink()
    ((kind, row),) = stored_rows(run_dir)
    assert kind == "run" and isinstance(row, RunRow) and row.run_id == "run-1"


def test_a_store_for_which_no_file_can_be_opened_says_so_and_not_that_the_disk_is_full(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "batches.log")

    with closing(opened(run_dir)) as store:
        monkeypatch.setattr(store.losses, "append", refuse)
        with pytest.raises(OutOfFiles, match=r"Too many open files; .*ulimit -n"):
            store.append(loss(0))
    monkeypatch.setattr(RunStore, "_open_to_write", refuse)
    with pytest.raises(OutOfFiles, match=r"Too many open files; .*ulimit -n"):
        opened(run_dir)
