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
INDEX_EVERY = 64
"""Log records between two remembered offsets; reading a record skips at most this many."""


class SegmentLog:
    """Append-only records, each a message with its length before it. ``length`` is committed by the store."""

    def __init__(self, path: Path, length: int, *, writable: bool = True) -> None:
        self.path = path
        self.length = length
        self.records = 0
        self._offsets: list[int] = []
        if writable:
            path.touch()
            os.truncate(path, length)
        self._file: BinaryIO = path.open("r+b" if writable else "rb")
        for offset, _ in self._walk(0):
            self._note(offset)

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

    def _walk(self, offset: int) -> Iterator[tuple[int, bytes]]:
        while offset < self.length:
            self._file.seek(offset)
            size = int.from_bytes(self._file.read(4), "little")
            raw = self._file.read(size)
            if len(raw) < size or offset + 4 + size > self.length:
                raise StoreError(
                    f"{self.path}: truncated at byte {offset}; restore the file or choose another --run-dir"
                )
            yield offset, raw
            offset += 4 + size

    def read(self, start: int, stop: int) -> Iterator[AnyMessage]:
        """Records ``start … stop-1``."""
        stop = min(stop, self.records)
        if start >= stop:
            return
        first = start // INDEX_EVERY * INDEX_EVERY
        for number, (_, raw) in enumerate(self._walk(self._offsets[start // INDEX_EVERY]), first):
            if number >= stop:
                return
            if number >= start:
                yield decode(msgspec.msgpack.decode(raw, type=list[bytes])).message

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunStore:
    """What is on disk of a run.

    Raises StoreError where the directory cannot be written or another broker uses it.
    """

    def __init__(self, run_dir: Path, *, writable: bool = True) -> None:
        self.run_dir = run_dir
        self._lock: BinaryIO | None = None
        try:
            if writable:
                run_dir.mkdir(parents=True, exist_ok=True)
                self._lock = _lock(run_dir)
            elif not (run_dir / DATABASE).exists():
                raise UserError(f"{run_dir} holds no run ({DATABASE} is missing); give the --run-dir of a run")
            self._open(writable)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"run store {run_dir}: {error}; give a writable --run-dir on a local disk") from error

    def _open(self, writable: bool) -> None:
        path = self.run_dir / DATABASE
        target = f"file:{path}" if writable else f"file:{path}?mode=ro"
        self._db = sqlite3.connect(target, uri=True, isolation_level=None)
        if writable:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key))"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS logs (name TEXT PRIMARY KEY, length INTEGER)")
        lengths = dict(self._db.execute("SELECT name, length FROM logs"))
        self.losses = SegmentLog(self.run_dir / LOSS_LOG, lengths.get(LOSS_LOG, 0), writable=writable)
        self.batches = SegmentLog(self.run_dir / BATCH_LOG, lengths.get(BATCH_LOG, 0), writable=writable)
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
            raise self._unwritable(error) from error

    def commit(self, effects: list[Put | Delete]) -> None:
        """Make the rows of one poll iteration durable, and the log records before them, all or nothing.

        Raises StoreError on a full disk; nothing of the iteration may be sent then.
        """
        lengths = (self.losses.length, self.batches.length)
        if not effects and lengths == self._committed:
            return
        latest = {(e.kind, e.key): e for e in effects}
        try:
            self._write(latest, lengths)
        except (OSError, sqlite3.Error) as error:
            raise self._unwritable(error) from error
        self._committed = lengths

    def _unwritable(self, error: Exception) -> StoreError:
        remedy = "free space, then start the broker again with the same --run-dir"
        return StoreError(f"run store {self.run_dir} cannot be written: {error}; {remedy}")

    def _write(self, latest: dict[tuple[str, str], Put | Delete], lengths: tuple[int, int]) -> None:
        self.losses.flush()
        self.batches.flush()
        puts = [(e.kind, e.key, encode_row(e.row)) for e in latest.values() if isinstance(e, Put)]
        deletes = [(e.kind, e.key) for e in latest.values() if isinstance(e, Delete)]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", puts)
            self._db.executemany("DELETE FROM rows WHERE kind = ? AND key = ?", deletes)
            self._db.executemany("INSERT OR REPLACE INTO logs VALUES (?, ?)", zip(LOGS, lengths, strict=True))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

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
        self.losses.close()
        self.batches.close()
        self._db.close()
        if self._lock is not None:
            self._lock.close()


def _lock(run_dir: Path) -> BinaryIO:
    lock = (run_dir / "broker.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"run_dir={run_dir}: another broker uses it; stop it or choose another --run-dir") from None
    return lock
