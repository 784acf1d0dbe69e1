"""Wakes a thread that waits in a poll, at the price of a system call only where it does not look by itself."""

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
        self.looks_soon = False
        """Whether the thread will look by itself within a moment. It takes that back before it looks for the last
        time, so what is set aside in between is either seen or called for."""

    def __call__(self) -> None:
        """From any thread; returns at once."""
        if not self._is_set:
            self._is_set = True
            self._writer.write(b"x")

    def soon(self) -> None:
        """Like a call, where the thread does not look by itself."""
        if not self.looks_soon:
            self()

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
