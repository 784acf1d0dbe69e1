"""SQLite's log is emptied beside the commits and not within them, stays small, and what stops that is told."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.effects import Put
from broker.rows import EpochRow
from broker.store import DATABASE, RunStore
from broker.wal import WalEmptier
from protocol.errors import StoreError

DEADLINE_S = 60


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    path = tmp_path / "some.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE rows (value BLOB)")
        yield path, db


def wal_of(database: Path) -> Path:
    return database.with_name(database.name + "-wal")


def until(holds: Callable[[], bool], what: str) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"{what} was not seen within {DEADLINE_S} s"
        pause.wait(0.005)


def write_megabyte(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO rows VALUES (?)", (bytes(1 << 20),))


def generation(database: Path) -> bytes:
    """Salts in the log's header: others once it is begun anew."""
    return wal_of(database).read_bytes()[16:24]


@pytest.mark.parametrize("most_bytes", [1, 1 << 40])
def test_the_log_is_emptied_and_begun_anew_while_the_writer_goes_on(
    database: tuple[Path, sqlite3.Connection], most_bytes: int
) -> None:
    path, db = database
    write_megabyte(db)
    first = generation(path)

    def begins_anew() -> bool:
        write_megabyte(db)
        return generation(path) != first

    with closing(WalEmptier(path, every_s=0.001, most_bytes=most_bytes)):
        until(begins_anew, "another log")
    assert path.stat().st_size > 1 << 20


def test_a_log_that_somebody_reads_grows_and_holds_no_commit_up(database: tuple[Path, sqlite3.Connection]) -> None:
    path, db = database
    with closing(WalEmptier(path, every_s=0.001, most_bytes=1)) as emptier, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM rows").fetchone()
        for _ in range(4):
            write_megabyte(db)
        assert emptier.error is None
        reader.execute("COMMIT")
        until(lambda: path.stat().st_size > 4 << 20, "the database with what was committed")


def test_a_store_leaves_its_log_to_the_thread_and_ends_it(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    assert [t.name for t in threading.enumerate()].count("wal") == 1
    assert store._db.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    store.close()
    assert "wal" not in [t.name for t in threading.enumerate()]
    assert not wal_of(tmp_path / "run" / DATABASE).exists()


def test_what_stops_the_emptying_is_raised_by_the_next_commit(tmp_path: Path) -> None:
    (tmp_path / "no_database").write_bytes(b"no database at all" * 1000)
    with closing(RunStore(tmp_path / "run")) as store:
        assert store._emptier is not None
        store._emptier.close()
        with closing(WalEmptier(tmp_path / "no_database", every_s=0.001)) as emptier:
            store._emptier = emptier
            until(lambda: emptier.error is not None, "the error")
            with pytest.raises(StoreError, match=r"file is not a database.*put a backup"):
                store.commit([Put("epoch", "0", EpochRow(epoch=0))])
