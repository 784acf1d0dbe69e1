"""Wakes a thread that waits in a poll, at the price of a system call only where it has not been woken already."""

from __future__ import annotations

import os


class Wake:
    """Called by whoever has set something aside for the thread; ``clear`` by the thread, before it looks for that."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._reader = os.fdopen(reader, "rb", buffering=0)
        self._writer = os.fdopen(writer, "wb", buffering=0)
        self._is_set = False

    def __call__(self) -> None:
        """From any thread; returns at once."""
        if not self._is_set:
            self._is_set = True
            self._writer.write(b"x")

    @property
    def is_set(self) -> bool:
        """Whether the thread is about to look."""
        return self._is_set

    def clear(self) -> None:
        """The pipe is emptied before the mark is taken away, or a wake between the two would be lost."""
        while self._reader.read(64):
            pass
        self._is_set = False

    def fileno(self) -> int:
        """To be polled; readable while it is set."""
        return self._reader.fileno()

    def close(self) -> None:
        """Afterwards a call raises ValueError."""
        self._reader.close()
        self._writer.close()
