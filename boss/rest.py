"""How the Boss's I/O thread rests between its turns: reports that follow closely are looked for, not called for.

    awake ── nothing to do ──> dozing ── no report for DOZES dozes ──> asleep
      ^                          │                                       │
      └────── a report, a message, a call ────── a message, a call ──────┘

To wake a thread costs the training thread a system call and the interpreter, more than all the rest of a report. So
while reports follow closely this thread looks for them by itself, and only what cannot wait calls it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from boss.reporter import Reporter
from boss.wake import Wake

IDLE_S = 1.0
COPY_POLL_S = 0.001
DOZES = 4
"""So many without a report, and the next report calls. Each is half a step: so long a report may lie, which is the
price. Messages and calls end a doze."""
LEAST_DOZE_S = 0.001
LONG_STEP_S = 0.02
"""Steps that are longer hardly feel a call, and each doze costs the other threads a little."""


class Rest:
    """``wait`` waits for a message or a call for at most so many seconds, and says whether one came."""

    def __init__(
        self,
        reporter: Reporter,
        wake: Wake,
        wait: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reporter = reporter
        self._wake = wake
        self._wait = wait
        self._clock = clock
        self._dozes_left = 0
        self._doze_s = LEAST_DOZE_S
        self._reported_at = clock()

    def __call__(self) -> float:
        """Rest until there is something to do; returns for how long a message or a call may still be waited for."""
        while self._dozes_left:
            if self._reporter.is_waiting:
                return self._until_copied()
            self._dozes_left -= 1
            if self._wait(self._doze_s):
                return 0.0
        self._wake.looks_soon = False
        return self._until_copied() if self._reporter.is_waiting else IDLE_S

    def _until_copied(self) -> float:
        return 0.0 if self._reporter.has_values else COPY_POLL_S

    def later(self, reports: int) -> None:
        """So many reports have come, and the next one may follow as closely."""
        now = self._clock()
        step_s = (now - self._reported_at) / reports
        self._reported_at = now
        self._doze_s = max(step_s / 2, LEAST_DOZE_S)
        self._dozes_left = DOZES if step_s <= LONG_STEP_S else 0
        self._wake.looks_soon = self._dozes_left > 0
