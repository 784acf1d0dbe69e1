"""SIGTERM and SIGINT as something that a poll loop can wait on."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)
AGAIN_S = 1.0
"""A second Ctrl-C that comes sooner may be the same one, which a launcher has passed on."""


@contextmanager
def ending_at_once(numbers: Sequence[signal.Signals] = STOPS) -> Iterator[None]:
    """Meanwhile these signals end the process, whoever listens to them: for a wait amid which no Python code runs, and
    with it no handler. Main thread only."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignal:
    """Turns signals into ``requested`` and a readable file descriptor. Main thread only."""

    def __init__(self, numbers: Sequence[signal.Signals] = STOPS, *, second_kills: bool = False) -> None:
        """With ``second_kills`` a second Ctrl-C ends the process at once, for a main thread that may hang; a SIGTERM
        beside it, or the same one passed on by whoever launched the process, does not."""
        self._numbers = numbers
        self._second_kills = second_kills
        self._interrupted_at: float | None = None
        self.requested = False
        self.number = 0
        self.count = 0
        """Signals so far: a second one may mean that the first takes too long."""
        self.on_stop: Callable[[], None] | None = None
        """Called in the signal handler, for a main thread that waits on something else than the descriptor."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> StopSignal:
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, self._handle) for s in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reader.close()
        self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested, self.number = True, number
        self.count += 1
        if self._second_kills and number == signal.SIGINT:
            self._die_of_the_second()
        if self.on_stop is not None:
            self.on_stop()

    def _die_of_the_second(self) -> None:
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
        elif now - self._interrupted_at > AGAIN_S:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    def request(self) -> None:
        """Ask for the stop as a signal would; from any thread, and without ``__enter__``."""
        self.requested = True
        self._writer.send(b"x")

    def close(self) -> None:
        """Give the descriptors back, where ``__enter__`` was never called."""
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Readable once a signal has come."""
        return self._reader.fileno()

    def drain(self) -> None:
        """Read the descriptor empty."""
        try:
            while self._reader.recv(64):
                pass
        except BlockingIOError:
            return
