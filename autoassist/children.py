"""Child processes of a local run: started, watched, their words kept, ended without a trace."""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from autoassist.cli import PARENT_VARIABLE
from protocol.logs import complaint_in, json_in
from protocol.processes import ending

HOME = Path(__file__).resolve().parent.parent
LAST_WORDS = 20
READ_S = 1.0
"""How long the last words of a process that has ended may take to be read."""
RANK_VARIABLES = frozenset(
    {
        *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT"),
        *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    }
)
"""What torchrun, and whoever speaks its language, tells a rank; beside these what begins with TORCHELASTIC_."""


def without_cwd() -> dict[str, str]:
    """Environment of a child that imports nothing from the working directory, which ``python -m`` puts first.

    A user's script may lie elsewhere, and a ``workloads`` or ``queue.py`` of his project would hide ours or Python's.
    The child is told where AutoAssist is, for that directory, or the script's, may be how it was found here; not where
    it is installed, since site-packages are to stay behind Python's own modules.
    """
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    installed = [*site.getsitepackages(), site.getusersitepackages()]
    is_found = HOME in [Path(entry).resolve() for entry in (*given, *installed)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(given if is_found else [*given, str(HOME)])}


def of_no_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what makes a process one of somebody's ranks, and which a cluster may leave set for a launcher too.

    Its Boss would wait for ranks that nobody starts. Where a run has several, its Boss starts them and tells each.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in RANK_VARIABLES and not name.startswith("TORCHELASTIC_")
    }


@dataclass(slots=True)
class Child:
    """One role of a local run."""

    name: str
    arguments: list[str]
    log_file: Path
    on_line: Callable[[str, str], None]
    """Called with (name, line) for each line that the child says."""
    on_news: Callable[[], None]
    """Called once it has announced itself, and once its output has ended."""
    environment: dict[str, str] = field(default_factory=dict)
    restarts: int = 0
    said: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_WORDS))
    process: subprocess.Popen[str] | None = None
    announcement: str = ""
    """Its first line on standard output, where ``start`` was told to listen for one."""
    _reader: threading.Thread | None = None

    def start(self, *, announce: bool = False) -> None:
        """Start the process; ``announce`` listens for its first line on standard output.

        It has a process group of its own, so that the terminal's Ctrl-C is the launcher's to hear. It has no session of
        its own: Linux divides the cores among sessions first (autogroups), so that between two of them the priorities
        of a Boss and of a process that looks ahead on idle time mean nothing.
        """
        ours = {PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        environment = {**of_no_rank(os.environ), **self.environment, **ours}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoassist", *self.arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if announce else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), name=f"{self.name}-log", daemon=True)
        self._reader.start()
        if announce:
            threading.Thread(target=self._listen, args=(self.process,), name=f"{self.name}-out", daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            self.announcement = process.stdout.readline()
        if self.announcement:  # where there is none, the end of its words is the news
            self.on_news()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        try:
            with process.stderr, _log(self.log_file) as write:
                for line in process.stderr:
                    write(line)
                    self.said.append(line.rstrip())
                    self.on_line(self.name, line.rstrip())
            process.wait()
        finally:
            self.on_news()

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        return ending(self.code or 0)

    @property
    def complaint(self) -> str:
        """The last error that it said, "" where there is none."""
        if self._reader not in (None, threading.current_thread()) and not self.is_running:
            assert self._reader is not None
            self._reader.join(READ_S)
        complaints = [complaint for line in self.said if (complaint := complaint_in(line)) is not None]
        return next((complaint.text for complaint in reversed(complaints) if complaint.ends), "")

    @property
    def last_words(self) -> str:
        """The last error, or the last line, that it said."""
        last = (list(self.said) or ["it said nothing"])[-1]
        return self.complaint or str((json_in(last) or {"message": last})["message"])

    @property
    def story(self) -> str:
        """How it ended, and why where it said so: who is killed has said nothing about it."""
        is_killed = (self.code or 0) < 0 and not self.complaint
        return self.ending if is_killed else f"{self.ending}: {self.last_words}"

    def tell(self, number: signal.Signals) -> None:
        """Send a signal if it lives."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within ``timeout_s``."""
        if self.process is None:
            return True
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def _log(path: Path) -> Iterator[Callable[[str], None]]:
    """Writes lines to a file. Where that fails (a full disk, a folder that is gone), the child is still heard."""
    file: TextIO | None = None

    def write(line: str) -> None:
        nonlocal file
        try:
            if file is None:
                file = path.open("a", encoding="utf-8")
            file.write(line)
            file.flush()
        except OSError:
            return

    try:
        yield write
    finally:
        with suppress(OSError):
            if file is not None:
                file.close()
