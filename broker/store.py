"""The run store: rows in SQLite (WAL); losses, finished batches and decided windows in append-only segment files.

One ``commit`` per poll iteration makes rows and log lengths durable together: the logs are flushed first, then their
lengths are committed with the rows, so what a crash leaves beyond the committed length is cut off at the next start.
Safe against kill -9 at any moment; not against power loss, and local disks only. Nothing is synchronised
(``synchronous=OFF``): the logs never were, rows without them are no run, and an fsync in another thread holds up a
commit here for ten milliseconds.

A reader (``writable=False``) sees one moment: rows and log lengths come from one transaction, and logs are read no
further. It holds that transaction no longer than it takes, since a WAL that somebody reads cannot be shortened. Not
covered: a run that is taken back to a checkpoint while it is read, whose logs are cut under the reader; read again.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from broker.effects import AppendBatch, AppendLoss, AppendWindow, Delete, Put
from broker.recent import Recent
from broker.rows import Row, WindowRecord, decode_row, encode_row
from broker.run_lock import RunLock, is_served
from broker.segments import batch_log, loss_log, window_log
from broker.store_errors import damaged, is_damage, is_out_of_files, out_of_files, unwritable
from broker.wal import WalEmptier
from protocol.errors import ProtocolError, StoreError, UserError
from protocol.messages import Batch, LossRecord

DATABASE = "run.sqlite"
LOSS_LOG = "losses.log"
BATCH_LOG = "batches.log"
WINDOW_LOG = "windows.log"
LOGS = (LOSS_LOG, BATCH_LOG, WINDOW_LOG)
SNAPSHOTS = 4
"""How many are kept: those of the Boss's checkpoints, and one whose file the Boss may not have finished."""
PAGE_BYTES = 1024
"""Of a new store. A commit writes whole pages, of which most hold a row or two: a quarter of the bytes that the usual
4,096 make, and half the time. Price: a row of 800 kB, a step of 1,024 ranks, takes a millisecond longer."""
TABLES = """
CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS logs (name TEXT PRIMARY KEY, length INTEGER);
CREATE TABLE IF NOT EXISTS snapshots (step INTEGER, kind TEXT, key TEXT, value BLOB);
CREATE TABLE IF NOT EXISTS snapshot_logs (step INTEGER, name TEXT, length INTEGER);
"""
# A row that is replaced would move to the end of its table: a quarter more pages to write.
PUT_ROW = "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value"
PUT_LENGTH = "INSERT INTO logs VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET length = excluded.length"


class RunStore:
    """What is on disk of a run.

    Raises StoreError where the directory cannot be written, or read, or another broker uses it.
    """

    def __init__(self, run_dir: Path, *, writable: bool = True) -> None:
        self.run_dir = run_dir
        self._opened = ExitStack()
        self._seen: list[tuple[str, bytes]] | None = None
        self._emptier: WalEmptier | None = None
        try:
            if writable:
                run_dir.mkdir(parents=True, exist_ok=True)
                self._lock = self._opened.enter_context(closing(RunLock(run_dir)))
                self._open_to_write()
            elif (run_dir / DATABASE).exists():
                self._open_to_read()
            else:
                raise UserError(f"{run_dir} holds no run ({DATABASE} is missing); give the --run-dir of a run")
        except (OSError, sqlite3.Error) as error:
            self.close()
            if is_damage(error):
                raise damaged(run_dir, error) from error
            if is_out_of_files(error):
                raise out_of_files(run_dir, error) from error
            remedy = "give a writable --run-dir on a local disk" if writable else "make it readable, or copy it whole"
            raise StoreError(f"run store {run_dir}: {error}; {remedy}") from error
        except BaseException:
            self.close()
            raise

    def _open_to_write(self) -> None:
        self._db = self._opened.enter_context(closing(_connect(self.run_dir / DATABASE)))
        self._db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("PRAGMA secure_delete=OFF")  # some builds write zeros over all that is deleted
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._require_rows_of_logs()
        self._db.executescript(TABLES)
        self._emptier = self._opened.enter_context(closing(WalEmptier(self.run_dir / DATABASE)))
        self._open_logs(self._lengths(), writable=True)

    def _require_rows_of_logs(self) -> None:
        """A database that was emptied looks like a new run's, for which the logs would be cut to nothing."""
        is_new = self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
        full = [name for name in LOGS if is_new and _size(self.run_dir / name)]
        if full:
            raise damaged(self.run_dir, f"{DATABASE} is empty or gone, {full[0]} is not")

    def _open_to_read(self) -> None:
        self._db = self._opened.enter_context(reading(self.run_dir))
        self._db.execute("BEGIN")
        lengths, self._seen = self._lengths(), self._raw_rows()
        self._db.execute("COMMIT")
        self._open_logs(lengths, writable=False)

    def _lengths(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, length FROM logs"))

    def _raw_rows(self) -> list[tuple[str, bytes]]:
        return self._db.execute("SELECT kind, value FROM rows").fetchall()

    def _open_logs(self, lengths: dict[str, int], *, writable: bool) -> None:
        """Open the logs; one that is not named yet, as in a run of an earlier version, has length 0."""
        paths = {name: (self.run_dir / name, lengths.get(name, 0)) for name in LOGS}
        self.losses = loss_log(*paths[LOSS_LOG], writable=writable)
        self._opened.enter_context(closing(self.losses))
        self.batches = batch_log(*paths[BATCH_LOG], writable=writable)
        self._opened.enter_context(closing(self.batches))
        self.windows = window_log(*paths[WINDOW_LOG], writable=writable)
        self._opened.enter_context(closing(self.windows))
        self._committed = self._log_lengths()
        self._recent = Recent()

    def _log_lengths(self) -> tuple[int, ...]:
        return self.losses.length, self.batches.length, self.windows.length

    def say_ending(self) -> None:
        """This broker takes up no more work: another one on this directory waits for it, and is not refused."""
        self._lock.say_ending()

    def rows(self) -> list[tuple[str, Row]]:
        """Every row; empty for a new run. A reader gets those of the moment at which it opened the store."""
        try:
            found = self._raw_rows() if self._seen is None else self._seen
            return [(kind, decode_row(kind, value)) for kind, value in found]
        except (sqlite3.Error, msgspec.MsgspecError, ProtocolError, KeyError) as error:
            raise damaged(self.run_dir, error) from error

    def append(self, effect: AppendLoss | AppendBatch | AppendWindow) -> None:
        """Append to a log; durable with the next ``commit``."""
        try:
            match effect:
                case AppendLoss(record):
                    self.losses.append(record)
                    self._recent.append(record)
                case AppendBatch(batch):
                    self.batches.append(batch)
                case AppendWindow(record):
                    self.windows.append(record)
        except OSError as error:
            raise unwritable(self.run_dir, error) from error

    def commit(self, effects: list[Put | Delete], snapshot: int | None = None) -> None:
        """Make the rows of one poll iteration durable, and the log records before them, all or nothing.

        ``snapshot`` also keeps all rows as they are then under that step. Raises StoreError on a full disk; nothing of
        the iteration may be sent then.
        """
        lengths = self._log_lengths()
        if not effects and lengths == self._committed and snapshot is None:
            return
        latest = {(e.kind, e.key): e for e in effects}
        try:
            if self._emptier is not None and self._emptier.error is not None:
                raise self._emptier.error
            self._write(latest, lengths, snapshot)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(self.run_dir, error) from error
        self._committed = lengths

    def _write(
        self, latest: dict[tuple[str, str], Put | Delete], lengths: tuple[int, ...], snapshot: int | None
    ) -> None:
        self.losses.flush()
        self.batches.flush()
        self.windows.flush()
        puts = [(e.kind, e.key, encode_row(e.row)) for e in latest.values() if isinstance(e, Put)]
        deletes = [(e.kind, e.key) for e in latest.values() if isinstance(e, Delete)]
        with self._transaction():
            self._db.executemany(PUT_ROW, puts)
            self._db.executemany("DELETE FROM rows WHERE kind = ? AND key = ?", deletes)
            if lengths != self._committed or snapshot is not None:
                self._db.executemany(PUT_LENGTH, zip(LOGS, lengths, strict=True))
            if snapshot is not None:
                self._keep_snapshot(snapshot)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _keep_snapshot(self, step: int) -> None:
        self._drop_snapshots(">= ?", step)
        self._db.execute("INSERT INTO snapshots SELECT ?, kind, key, value FROM rows", (step,))
        self._db.execute("INSERT INTO snapshot_logs SELECT ?, name, length FROM logs", (step,))
        kept = self.snapshots()[-SNAPSHOTS:]
        self._drop_snapshots("< ?", kept[0])

    def _drop_snapshots(self, which: str, step: int) -> None:
        for table in ("snapshots", "snapshot_logs"):
            self._db.execute(f"DELETE FROM {table} WHERE step {which}", (step,))

    def snapshots(self) -> list[int]:
        """Steps to which the run can be taken back, oldest first."""
        return [step for (step,) in self._db.execute("SELECT DISTINCT step FROM snapshot_logs ORDER BY step")]

    def restore_snapshot(self, step: int) -> None:
        """Take rows and logs back to the snapshot of ``step``, or to the beginning for -1; durable when it returns.

        Raises StoreError where there is no such snapshot or it cannot be written.
        """
        try:
            if step != -1 and step not in self.snapshots():
                raise StoreError(f"no snapshot of step {step}; there are {self.snapshots()}")
            with self._transaction():
                self._db.execute("DELETE FROM rows")
                self._db.execute("DELETE FROM logs")
                self._db.execute("INSERT INTO rows SELECT kind, key, value FROM snapshots WHERE step = ?", (step,))
                self._db.execute("INSERT INTO logs SELECT name, length FROM snapshot_logs WHERE step = ?", (step,))
                self._drop_snapshots("> ?", step)
            self.losses.close()
            self.batches.close()
            self.windows.close()
            self._open_logs(self._lengths(), writable=True)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(self.run_dir, error) from error

    def loss_records(self, start: int = 0, stop: int = 1 << 62) -> Iterator[LossRecord]:
        """Records of the loss log."""
        return self._recent.of(start, stop) or self.losses.read(start, stop)

    def finished_batches(self) -> Iterator[Batch]:
        """Batches that all ranks have reported, in step order."""
        return self.batches.read()

    def decided_windows(self) -> Iterator[WindowRecord]:
        """Windows as they were decided, in that order; each once."""
        return self.windows.read()

    def close(self) -> None:
        """Close files and give the directory free."""
        self._opened.close()


def stored_rows(run_dir: Path) -> list[tuple[str, Row]]:
    """Every row of a run, without a look at its logs, which take long to open once they are long.

    Raises UserError where there is no run, StoreError where its store cannot be read.
    """
    if not (run_dir / DATABASE).exists():
        raise UserError(f"{run_dir} holds no run ({DATABASE} is missing); give the --run-dir of a run")
    try:
        with reading(run_dir) as db:
            found = db.execute("SELECT kind, value FROM rows").fetchall()
        return [(kind, decode_row(kind, value)) for kind, value in found]
    except (OSError, sqlite3.Error, msgspec.MsgspecError, ProtocolError, KeyError) as error:
        raise damaged(run_dir, error) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _connect(database: Path, options: str = "") -> sqlite3.Connection:
    # Long, for a slow disk may keep the log's thread busy with it while it holds the lock.
    return sqlite3.connect(database.absolute().as_uri() + options, uri=True, isolation_level=None, timeout=60.0)


@contextmanager
def reading(run_dir: Path) -> Iterator[sqlite3.Connection]:
    """The database, read only, for a moment; also in a directory that takes no files.

    Where no broker of this machine uses the run and all of it stands in the database, it is read as a file that nobody
    changes: SQLite would leave a WAL and its index beside it. Price: a broker that begins meanwhile is not seen, nor
    waited for. What is read is then the run as it was before; one that is still being read when that broker first
    empties its WAL, a second later at the earliest, may look damaged: read again.

    What stands in the WAL alone, as after a kill -9, would be left out so. A directory that takes no files has no room
    for a WAL's index: where there is such a WAL in it, a temporary copy is read, some MB.
    """
    database, wal = run_dir / DATABASE, run_dir / f"{DATABASE}-wal"
    with ExitStack() as opened:
        # In this order: a broker that ends empties its WAL, and then gives the directory free.
        is_at_rest = not is_served(run_dir) and not _size(wal)
        db = opened.enter_context(closing(_connect(database, "?immutable=1" if is_at_rest else "?mode=ro")))
        try:
            db.execute("SELECT 1 FROM logs LIMIT 1").fetchall()
        except sqlite3.OperationalError:
            if os.access(run_dir, os.W_OK):
                raise
            if wal.exists() and wal.stat().st_size:
                folder = Path(opened.enter_context(TemporaryDirectory(prefix="autoassist-")))
                for file in (database, wal):
                    shutil.copyfile(file, folder / file.name)
                db = opened.enter_context(closing(_connect(folder / DATABASE)))
            else:
                db = opened.enter_context(closing(_connect(database, "?immutable=1")))
        yield db
