"""What tables held before they were written to, since the last checkpoint: so that a checkpoint need not copy them."""

from __future__ import annotations

import logging
import os
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protocol.arrays import I64
from protocol.trouble import Trouble

log = logging.getLogger("autoassist.assistant")

ENTRY = struct.Struct("<IQ")
"""Number of the table, and of the rows; then their IDs and what the rows held."""


class Journal:
    """One file beside the tables for each checkpoint, named by its mark; a table's rows are put back from its end on.

    An entry is in the file before the table changes, so that a process may be killed at any moment; of an entry that
    was not written whole, the table has not changed. Nothing is synchronised to the disk: it is as safe as the run
    store, against kill -9 and not against power loss. Price: 20 bytes of a report's instance and table, on disk, until
    the next checkpoint.
    """

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self._mark = self._next_mark = 0
        self._file = self._next = -1
        self.trouble = Trouble(log)

    def path(self, mark: int) -> Path:
        """Of the file that leads back to the checkpoint with this mark."""
        return self.stem.with_name(f"{self.stem.name}.undo-{mark}")

    def forget(self) -> None:
        """There is no checkpoint to go back to. Raises OSError."""
        self.close()
        self._mark = 0
        self._remove_others(None)

    def prepare(self) -> int:
        """Before a checkpoint is written: the mark that it shall have. Raises OSError."""
        if self._next >= 0:  # the checkpoint that was prepared has not come about
            file, self._next = self._next, -1  # first: another one may have its number by the time this is tried again
            os.close(file)
            self.path(self._next_mark).unlink(missing_ok=True)
        mark = secrets.randbits(52)  # in a folder that several runs had, no two checkpoints have the same
        self._next = os.open(self.path(mark), os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
        self._next_mark = mark
        return mark

    def commit(self) -> None:
        """The checkpoint that was prepared is in its place, and the one before it is gone. Raises OSError."""
        file, self._next = self._next, -1
        if self._file >= 0:  # it has noted all since the checkpoint before
            self.trouble.is_over()
        self.close()
        self._mark, self._file = self._next_mark, file
        self._remove_others(self.path(self._mark))

    def note(self, number: int, ids: I64, rows: np.ndarray) -> None:
        """These rows of a table are about to change. Where they cannot be noted the checkpoint is given up."""
        if self._file < 0:
            return
        entry = ENTRY.pack(number, len(ids)) + ids.tobytes() + rows.tobytes()
        reason = "no space left"
        try:
            if os.write(self._file, entry) == len(entry):
                return
        except OSError as error:
            reason = str(error)
        what = f"{self.path(self._mark)} cannot be written ({reason})"
        self.trouble.met(what, "until the next checkpoint a restart rebuilds from the loss log")
        self.forget()  # where the file cannot be removed either this must end: it would lead back to what is not so

    def go_back(self, mark: int, tables: Sequence[np.ndarray]) -> None:
        """Make the tables what they were at a checkpoint; raises ValueError where nothing leads back to it."""
        try:
            content = self.path(mark).read_bytes()
        except OSError as error:
            raise ValueError(f"the old rows of its tables are not there: {error}") from None
        places = [0]
        while places[-1] + ENTRY.size <= len(content):
            end = places[-1] + _length(content, places[-1], tables)
            if end > len(content):
                break
            places.append(end)
        for start in reversed(places[:-1]):
            _put_back(content, start, tables)
        self._file = os.open(self.path(mark), os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._file, places[-1])
        self._mark = mark
        self._remove_others(self.path(mark))

    def _remove_others(self, kept: Path | None) -> None:
        for path in self.stem.parent.glob(f"{self.stem.name}.undo-*"):
            if path != kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """The files stay."""
        for file in (self._file, self._next):
            if file >= 0:
                os.close(file)
        self._file = self._next = -1


def _length(content: bytes, place: int, tables: Sequence[np.ndarray]) -> int:
    """Bytes of the entry that begins there."""
    number, count = (int(value) for value in ENTRY.unpack_from(content, place))
    if number >= len(tables):
        raise ValueError(f"it has a table {number}, this policy {len(tables)}")
    return ENTRY.size + count * (8 + tables[number].strides[0])


def _put_back(content: bytes, place: int, tables: Sequence[np.ndarray]) -> None:
    number, count = ENTRY.unpack_from(content, place)
    table, place = tables[number], place + ENTRY.size
    ids = np.frombuffer(content, np.int64, count, place)
    rows = np.frombuffer(content, table.dtype, count * table.shape[1], place + ids.nbytes)
    table[ids] = rows.reshape(count, table.shape[1])
