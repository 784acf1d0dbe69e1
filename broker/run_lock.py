"""One broker at a time in a run directory; the next one waits for one that is about to end, and for no other.

Two locks (``flock``, which die with their process): ``broker.lock`` for a broker's whole life, ``broker.serving`` until
it begins to end. A launcher that was killed leaves a broker behind which waits up to its ``drain_s`` for Goodbyes:
who resumes the run at once must not be told to stop a broker that is stopping.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from protocol.errors import UserError

log = logging.getLogger("autoassist.broker")

LOCK_FILE = "broker.lock"
SERVING_FILE = "broker.serving"
ENDING_S = 20.0
"""How long a broker may take to end: its default ``drain_s``, and as long again."""


class RunLock:
    """Held from the moment it is made until ``close``.

    Raises UserError where another broker serves the run, or has not ended within ``patience_s`` seconds.
    """

    def __init__(self, run_dir: Path, *, patience_s: float = ENDING_S) -> None:
        self._life = (run_dir / LOCK_FILE).open("ab")
        self._serving = (run_dir / SERVING_FILE).open("ab")
        if not _is_had(self._life) and not self._outlasts(patience_s):
            self.close()
            raise UserError(_in_use(run_dir))
        fcntl.flock(self._serving, fcntl.LOCK_EX)  # at most another's look, of a moment, is in the way
        self._life.truncate(0)
        self._life.write(str(os.getpid()).encode())
        self._life.flush()

    def _outlasts(self, patience_s: float) -> bool:
        if not _is_had(self._serving):
            return False
        fcntl.flock(self._serving, fcntl.LOCK_UN)
        log.info("another broker of this run is about to end; waiting for it")
        waiting = threading.Thread(target=fcntl.flock, args=(self._life.fileno(), fcntl.LOCK_EX), daemon=True)
        waiting.start()
        waiting.join(patience_s)
        return not waiting.is_alive()

    def say_ending(self) -> None:
        """From now on the next broker waits instead of giving up."""
        fcntl.flock(self._serving, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the next one in."""
        self._serving.close()
        self._life.close()


def wait_until_free(run_dir: Path) -> None:
    """Return once no broker uses the run: one that is about to end is waited for.

    Raises UserError where one goes on, or the directory cannot be written.
    """
    try:
        RunLock(run_dir).close()
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: {error}; make it writable, or copy it") from error


def is_served(run_dir: Path) -> bool:
    """Whether a broker of this machine uses the run, or is about to end; changes nothing."""
    try:
        with (run_dir / LOCK_FILE).open("rb") as file:
            return not _is_had(file, fcntl.LOCK_SH)  # who else only looks is not in the way
    except OSError:
        return False


def _in_use(run_dir: Path) -> str:
    with suppress(OSError):
        if process := (run_dir / LOCK_FILE).read_text(encoding="ascii", errors="replace"):
            ways = f"autoassist top {run_dir} shows it, kill {process} stops it in order"
            return f"run_dir={run_dir}: its run is still going on, by the broker with process ID {process}; {ways}"
    return f"run_dir={run_dir}: another broker uses it; stop it or choose another --run-dir"


def _is_had(file: BinaryIO, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
