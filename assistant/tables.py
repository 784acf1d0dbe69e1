"""Arrays with a row for each instance: in memory while they are small, in mapped files when they are not.

A mapped file's pages are the kernel's to drop and to fetch again, so that an Assistant works with more instances than
memory has room for. Its checkpoint does not copy the rows: what a restart finds in the file is brought back to the
checkpoint (``assistant.journal``). Price: a changed row is a changed page, which the kernel writes to the disk within
half a minute, so that a fast run over many instances keeps a disk busy; what is not in memory is read page by page.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from assistant.journal import Journal
from protocol.arrays import I64
from protocol.errors import DataError

log = logging.getLogger("autoassist.assistant")

MAP_FROM = 10_000_000
"""Instances; the default policy's 16 bytes of each are 160 MB by then."""


@dataclass(eq=False)
class Table:
    """Rows by instance, all zero at first. Read ``rows``; write by ``put``."""

    rows: np.ndarray
    """Shape ``(n, columns)``."""
    number: int = 0
    journal: Journal | None = None
    file: int = -1
    """Descriptor of the mapped file; -1 for one in memory."""

    def put(self, ids: I64, rows: np.ndarray) -> None:
        """Write rows; of an ID that occurs twice the last one stays."""
        if self.journal is not None:
            self.journal.note(self.number, ids, self.rows.take(ids, axis=0))
        self.rows[ids] = rows

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the rows, for a checkpoint; of mapped ones only their shape."""
        return {"shape": np.array(self.rows.shape)} if self.file >= 0 else {"rows": self.rows.copy()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state``, mapped rows being brought back by themselves; raises KeyError or ValueError."""
        shape = tuple(state["shape"].tolist()) if self.file >= 0 else state["rows"].shape
        if shape != self.rows.shape:
            raise ValueError(f"rows of shape {shape}, not {self.rows.shape}: of another data set")
        if self.file < 0:
            self.rows[...] = state["rows"]


@dataclass(eq=False)
class Tables:
    """All tables of one policy."""

    stem: Path | None = None
    """Beginning of the files' names; without one a mapped file has none, and vanishes with the process."""
    map_from: int = MAP_FROM
    """Instances from which on tables are mapped."""
    _mapped: list[Table] = field(default_factory=list)
    _journal: Journal | None = None

    @property
    def can_be_kept(self) -> bool:
        """Whether a checkpoint can lead back to all of them."""
        return not self._mapped or self._journal is not None

    def make(self, name: str, n: int, columns: int, dtype: DTypeLike) -> Table:
        """A new table; before the next ``begin`` or ``go_back`` a mapped one holds whatever its file held."""
        size = n * columns * np.dtype(dtype).itemsize
        if n < self.map_from or not size:
            return Table(np.zeros((n, columns), dtype=dtype))
        try:
            file = self._open(name, size)
        except OSError as error:
            log.warning("%.1f GB for %s cannot be mapped (%s); held in memory instead", size / 1e9, name, error)
            return Table(np.zeros((n, columns), dtype=dtype))
        room = mmap.mmap(file, size)
        room.madvise(mmap.MADV_RANDOM)
        rows = np.frombuffer(room, dtype=dtype).reshape(n, columns)
        table = Table(rows, len(self._mapped), self._journal, file)
        self._mapped.append(table)
        return table

    def _open(self, name: str, size: int) -> int:
        """A file with all its space reserved: a write to a map for which the disk has no room ends the process."""
        is_first = not self._mapped
        file = self._named(name) if self.stem is not None and (is_first or self._journal is not None) else None
        if file is None:
            with tempfile.TemporaryFile(prefix=f"autoassist-{name}-") as nameless:
                file = os.dup(nameless.fileno())
        try:
            _reserve(file, size)
        except OSError:
            os.ftruncate(file, 0)
            os.close(file)
            raise
        return file

    def _named(self, name: str) -> int | None:
        """None, with a warning, where another process has it; the first table's lock is that of all."""
        assert self.stem is not None
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        path = self.stem.with_name(f"{self.stem.name}.{name}")
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if self._mapped:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            log.warning("%s is in use by another process; a restart will rebuild from the loss log", path)
            return None
        self._journal = Journal(self.stem)
        return file

    def begin(self) -> None:
        """All rows are zero, and there is no checkpoint. Raises DataError where the disk has no room any more."""
        if self._journal is not None:
            self._journal.forget()
        try:
            for table in self._mapped:
                os.ftruncate(table.file, 0)
                _reserve(table.file, table.rows.nbytes)
        except OSError as error:
            where = self.stem.parent if self.stem is not None else tempfile.gettempdir()
            raise DataError(f"{where}: no room for the instances' history ({error}); free some") from None

    def go_back(self, mark: int) -> None:
        """All rows are as at the checkpoint with this mark; raises ValueError where nothing leads back to it."""
        if self._mapped:
            if self._journal is None:
                raise ValueError("its tables are in use by another process")
            self._journal.go_back(mark, [table.rows for table in self._mapped])

    def prepare(self) -> int:
        """Before a checkpoint is written: the mark that it shall have. Raises OSError."""
        return self._journal.prepare() if self._journal is not None else 0

    def commit(self) -> None:
        """The checkpoint that was prepared is in its place. Raises OSError."""
        if self._journal is not None:
            self._journal.commit()

    def close(self) -> None:
        """Let go of the files; the tables must not be used any more."""
        if self._journal is not None:
            self._journal.close()
            self._journal.trouble.ends()
        for table in self._mapped:
            fcntl.flock(table.file, fcntl.LOCK_UN)  # the map holds on to the file, and to a lock, as long as it lives
            os.close(table.file)
        self._mapped, self._journal = [], None


def _reserve(file: int, size: int) -> None:
    os.ftruncate(file, size)
    os.posix_fallocate(file, 0, size)
