"""The run store: rows in SQLite (WAL), losses and finished batches in append-only segment files.

One ``commit`` per poll iteration makes rows and log lengths durable together: the logs are flushed first, then their
lengths are committed with the rows, so what a crash leaves beyond the committed length is cut off at the next start.
Safe against kill -9 at any moment; not against power loss (``synchronous=NORMAL``), and local disks only.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from broker.effects import AppendBatch, AppendLoss, Delete, Put
from broker.rows import Row, decode_row, encode_row
from protocol.codec import decode, encode
from protocol.errors import ProtocolError, StoreError, UserError
from protocol.messages import AnyMessage, Batch, Envelope, LossRecord

DATABASE = "run.sqlite"
LOSS_LOG = "losses.log"
BATCH_LOG = "batches.log"
LOGS = (LOSS_LOG, BATCH_LOG)
SNAPSHOTS = 4
"""How many are kept: those of the Boss's checkpoints, and one whose file the Boss may not have finished."""
INDEX_EVERY = 64
"""Log records between two remembered offsets; reading a record skips at most this many."""


class SegmentLog:
    """Append-only records, each a message with its length before it. ``length`` is committed by the store.

    Raises StoreError where the file is shorter than that, or not made of whole records.
    """

    def __init__(self, path: Path, length: int, *, writable: bool = True) -> None:
        self.path = path
        self.length = length
        self.records = 0
        self._offsets: list[int] = []
        if writable:
            path.touch()
        self._file: BinaryIO = path.open("r+b" if writable else "rb")
        try:
            self._check(writable)
        except BaseException:
            self.close()
            raise

    def _check(self, writable: bool) -> None:
        """Cut off what was never committed; find the records."""
        found = self._file.seek(0, os.SEEK_END)
        if found < self.length:
            raise self._damaged(f"has {found} bytes, {self.length} were committed")
        if writable:
            self._file.truncate(self.length)
        offset = 0
        while offset < self.length:
            self._note(offset)
            offset += 4 + self._size_at(offset)
        if offset != self.length:
            raise self._damaged("its last record is cut off")

    def _damaged(self, problem: str) -> StoreError:
        return StoreError(f"{self.path}: {problem}; restore the file or choose another --run-dir")

    def _size_at(self, offset: int) -> int:
        self._file.seek(offset)
        return int.from_bytes(self._file.read(4), "little")

    def _note(self, offset: int) -> None:
        if self.records % INDEX_EVERY == 0:
            self._offsets.append(offset)
        self.records += 1

    def append(self, message: AnyMessage) -> None:
        """Buffer a record; ``flush`` before its length is committed."""
        frames = encode(Envelope(seq=0, span=1, ack=0, message=message))
        raw = msgspec.msgpack.encode(frames)
        self._note(self.length)
        self._file.seek(self.length)
        self._file.write(len(raw).to_bytes(4, "little") + raw)
        self.length += 4 + len(raw)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    def read(self, start: int, stop: int) -> Iterator[AnyMessage]:
        """Records ``start … stop-1``. Raises StoreError where one does not decode."""
        stop = min(stop, self.records)
        if start >= stop:
            return
        offset = self._offsets[start // INDEX_EVERY]
        for number in range(start // INDEX_EVERY * INDEX_EVERY, stop):
            size = self._size_at(offset)
            if number >= start:
                yield self._decoded(number, self._file.read(size))
            offset += 4 + size

    def _decoded(self, number: int, raw: bytes) -> AnyMessage:
        try:
            return decode(msgspec.msgpack.decode(raw, type=list[bytes])).message
        except (msgspec.MsgspecError, ProtocolError) as error:
            raise self._damaged(f"record {number} is damaged: {error}") from error

    def close(self) -> None:
        """Close the file. What a full disk does not take was never committed."""
        with suppress(OSError):
            self._file.close()


class RunStore:
    """What is on disk of a run.

    Raises StoreError where the directory cannot be written or another broker uses it.
    """

    def __init__(self, run_dir: Path, *, writable: bool = True) -> None:
        self.run_dir = run_dir
        self._opened = ExitStack()
        try:
            if writable:
                run_dir.mkdir(parents=True, exist_ok=True)
                self._opened.enter_context(_lock(run_dir))
            elif not (run_dir / DATABASE).exists():
                raise UserError(f"{run_dir} holds no run ({DATABASE} is missing); give the --run-dir of a run")
            self._open(writable)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"run store {run_dir}: {error}; give a writable --run-dir on a local disk") from error
        except BaseException:
            self.close()
            raise

    def _open(self, writable: bool) -> None:
        target = (self.run_dir / DATABASE).absolute().as_uri() + ("" if writable else "?mode=ro")
        self._db = self._opened.enter_context(closing(sqlite3.connect(target, uri=True, isolation_level=None)))
        if writable:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key))"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS logs (name TEXT PRIMARY KEY, length INTEGER)")
            self._db.execute("CREATE TABLE IF NOT EXISTS snapshots (step INTEGER, kind TEXT, key TEXT, value BLOB)")
            self._db.execute("CREATE TABLE IF NOT EXISTS snapshot_logs (step INTEGER, name TEXT, length INTEGER)")
        self._open_logs(writable)

    def _open_logs(self, writable: bool) -> None:
        lengths = dict(self._db.execute("SELECT name, length FROM logs"))
        self.losses, self.batches = (
            self._opened.enter_context(
                closing(SegmentLog(self.run_dir / name, lengths.get(name, 0), writable=writable))
            )
            for name in LOGS
        )
        self._committed = (self.losses.length, self.batches.length)

    def rows(self) -> list[tuple[str, Row]]:
        """Every row; empty for a new run."""
        try:
            found = self._db.execute("SELECT kind, value FROM rows").fetchall()
            return [(kind, decode_row(kind, value)) for kind, value in found]
        except (sqlite3.Error, msgspec.MsgspecError, ProtocolError, KeyError) as error:
            raise StoreError(f"run store {self.run_dir} is damaged: {error}; choose another --run-dir") from error

    def append(self, effect: AppendLoss | AppendBatch) -> None:
        """Append to a log; durable with the next ``commit``."""
        try:
            if isinstance(effect, AppendLoss):
                self.losses.append(effect.record)
            else:
                self.batches.append(effect.batch)
        except OSError as error:
            raise unwritable(self.run_dir, error) from error

    def commit(self, effects: list[Put | Delete], snapshot: int | None = None) -> None:
        """Make the rows of one poll iteration durable, and the log records before them, all or nothing.

        ``snapshot`` also keeps all rows as they are then under that step. Raises StoreError on a full disk; nothing of
        the iteration may be sent then.
        """
        lengths = (self.losses.length, self.batches.length)
        if not effects and lengths == self._committed and snapshot is None:
            return
        latest = {(e.kind, e.key): e for e in effects}
        try:
            self._write(latest, lengths, snapshot)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(self.run_dir, error) from error
        self._committed = lengths

    def _write(
        self, latest: dict[tuple[str, str], Put | Delete], lengths: tuple[int, int], snapshot: int | None
    ) -> None:
        self.losses.flush()
        self.batches.flush()
        puts = [(e.kind, e.key, encode_row(e.row)) for e in latest.values() if isinstance(e, Put)]
        deletes = [(e.kind, e.key) for e in latest.values() if isinstance(e, Delete)]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", puts)
            self._db.executemany("DELETE FROM rows WHERE kind = ? AND key = ?", deletes)
            self._db.executemany("INSERT OR REPLACE INTO logs VALUES (?, ?)", zip(LOGS, lengths, strict=True))
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
        if step != -1 and step not in self.snapshots():
            raise StoreError(f"no snapshot of step {step}; there are {self.snapshots()}")
        try:
            with self._transaction():
                self._db.execute("DELETE FROM rows")
                self._db.execute("DELETE FROM logs")
                self._db.execute("INSERT INTO rows SELECT kind, key, value FROM snapshots WHERE step = ?", (step,))
                self._db.execute("INSERT INTO logs SELECT name, length FROM snapshot_logs WHERE step = ?", (step,))
                self._drop_snapshots("> ?", step)
            self.losses.close()
            self.batches.close()
            self._open_logs(writable=True)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(self.run_dir, error) from error

    def loss_records(self, start: int = 0, stop: int = 1 << 62) -> Iterator[LossRecord]:
        """Records of the loss log."""
        for message in self.losses.read(start, stop):
            assert isinstance(message, LossRecord)
            yield message

    def finished_batches(self) -> Iterator[Batch]:
        """Batches that all ranks have reported, in step order."""
        for message in self.batches.read(0, self.batches.records):
            assert isinstance(message, Batch)
            yield message

    def close(self) -> None:
        """Close files and give the directory free."""
        self._opened.close()


def unwritable(run_dir: Path, error: Exception) -> StoreError:
    """The error of a full or failing disk, with its remedy."""
    remedy = "free space, then start the broker again with the same --run-dir"
    return StoreError(f"run store {run_dir} cannot be written: {error}; {remedy}")


def _lock(run_dir: Path) -> BinaryIO:
    lock = (run_dir / "broker.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"run_dir={run_dir}: another broker uses it; stop it or choose another --run-dir") from None
    return lock
