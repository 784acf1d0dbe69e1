"""How the Boss's I/O thread rests between its turns: reports that follow closely are looked for, not called for.

    awake ── nothing to do ──> dozing ── no report for DOZES dozes ──> asleep
      ^                          │                                       │
      └────── a report, a message, a call ────── a message, a call ──────┘

To wake a thread costs the training thread a system call and the interpreter, more than all the rest of a report. So
while reports follow closely this thread looks for them by itself, and only what cannot wait calls it.
"""

from __future__ import annotations

from collections.abc import Callable

from boss.reporter import Reporter
from boss.wake import Wake

IDLE_S = 1.0
COPY_POLL_S = 0.001
DOZE_S = 0.002
"""How long a report may lie: its price. Messages and calls end a doze."""
DOZES = 6
"""So many without a report, and the next report calls: steps that long hardly feel it."""


class Rest:
    """``wait`` waits for a message or a call for at most so many seconds, and says whether one came."""

    def __init__(self, reporter: Reporter, wake: Wake, wait: Callable[[float], bool]) -> None:
        self._reporter = reporter
        self._wake = wake
        self._wait = wait
        self._dozes_left = 0

    def __call__(self) -> float:
        """Rest until there is something to do; returns for how long a message or a call may still be waited for."""
        while self._dozes_left:
            if self._reporter.is_waiting:
                return self._until_copied()
            self._dozes_left -= 1
            if self._wait(DOZE_S):
                return 0.0
        self._wake.looks_soon = False
        return self._until_copied() if self._reporter.is_waiting else IDLE_S

    def _until_copied(self) -> float:
        return 0.0 if self._reporter.has_values else COPY_POLL_S

    def later(self) -> None:
        """A report has come, and the next one may follow closely."""
        self._dozes_left = DOZES
        self._wake.looks_soon = True
