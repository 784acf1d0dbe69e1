"""Empties SQLite's write-ahead log in a thread of its own, which would hold the broker's loop up.

Left to itself SQLite moves the log into the database within some commit, every thousand pages: a long commit now and
then, behind which all Boss ranks queue. What is safe against what is the same.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

EVERY_S = 1.0
"""How often what is in the log moves into the database, beside the commits."""
MOST_BYTES = 64 << 20
"""A log of this size is begun anew unless somebody reads, for which one commit may have to wait. It seldom comes to
that: where nothing is committed while it is emptied, the next commit begins it anew by itself."""


class WalEmptier:
    """For a database whose own checkpoints are switched off (``wal_autocheckpoint=0``); one writer, this process.

    ``error`` is what has stopped it, for the writer to raise: a log that is not emptied grows.
    """

    def __init__(self, database: Path, *, every_s: float = EVERY_S, most_bytes: int = MOST_BYTES) -> None:
        self.error: sqlite3.Error | OSError | None = None
        self._database = database
        self._wal = database.with_name(database.name + "-wal")
        self._every_s = every_s
        self._most_bytes = most_bytes
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the database's last connection empties the log once more when it closes."""
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            # It waits for nobody: what is read or written just now moves the next time.
            with closing(sqlite3.connect(self._database, timeout=0.0, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=OFF")
                while not self._ends.wait(self._every_s):
                    self._empty(db)
        except (sqlite3.Error, OSError) as error:
            self.error = error

    def _empty(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._wal.stat().st_size > self._most_bytes:
            db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
