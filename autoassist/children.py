"""Child processes of a local run: started, watched, their words kept, ended without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autoassist.cli import PARENT_VARIABLE

LAST_WORDS = 12


@dataclass(slots=True)
class Child:
    """One role of a local run."""

    name: str
    arguments: list[str]
    log_file: Path
    on_line: Callable[[str, str], None]
    """Called with (name, line) for each line that the child says."""
    on_exit: Callable[[], None]
    """Called once its output has ended."""
    environment: dict[str, str] = field(default_factory=dict)
    restarts: int = 0
    said: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_WORDS))
    process: subprocess.Popen[str] | None = None
    announcement: str = ""

    def start(self, *, announce: bool = False) -> None:
        """Start the process in a session of its own; ``announce`` waits for its first line on standard output."""
        environment = {**os.environ, **self.environment, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoassist", *self.arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if announce else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.process,), name=f"{self.name}-log", daemon=True).start()
        if announce:
            assert self.process.stdout is not None
            self.announcement = self.process.stdout.readline()
            self.process.stdout.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with self.log_file.open("a", encoding="utf-8") as log_file, process.stderr:
            for line in process.stderr:
                log_file.write(line)
                log_file.flush()
                self.said.append(line.rstrip())
                self.on_line(self.name, line.rstrip())
        process.wait()
        self.on_exit()

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def last_words(self) -> str:
        """The last error line, or the last line, that it said."""
        errors = [line for line in self.said if line.startswith("error:")]
        return (errors or list(self.said) or ["it said nothing"])[-1]

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
