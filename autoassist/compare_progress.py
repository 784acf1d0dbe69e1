"""How far a comparison is, and about how long it still takes: a bar in a terminal, a line per run elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from autoassist.compare_plan import PlannedRun
from protocol.report import BossReport, Report

log = logging.getLogger("autoassist.compare")

MOST_OF_A_RUN = 0.95
"""How far the bar may run ahead within a run that takes longer than expected."""


class Pace:
    """How long runs take: so many seconds each, and so many per Boss pass, from those that have finished.

    Those that this call has timed from start to end count alone once there are any: the others are known by the Boss's
    own clocks, which leave out the start of a run, and may have met another machine, or a busier one.
    """

    def __init__(self) -> None:
        self._timed = Tally()
        self._reported = Tally()

    def add(self, report: Report, duration_s: float | None) -> None:
        """One run; without a duration where this call has not seen all of it."""
        boss = report.boss
        if duration_s is None:
            self._reported.add(boss, boss.wall_s + boss.evaluation_s + boss.startup_wait_s)
        else:
            self._timed.add(boss, duration_s)

    def expected_s(self, passes: int, runs: int = 1) -> float | None:
        """Seconds that ``runs`` runs of ``passes`` passes together will take; None while nothing is known."""
        timed_s = self._timed.expected_s(passes, runs)
        return self._reported.expected_s(passes, runs) if timed_s is None else timed_s


class Tally:
    """Runs added up."""

    def __init__(self) -> None:
        self._runs = 0
        self._passes = 0
        self._wall_s = 0.0
        self._overhead_s = 0.0

    def add(self, boss: BossReport, duration_s: float) -> None:
        """One run."""
        self._runs += 1
        self._passes += boss.instances
        self._wall_s += boss.wall_s
        self._overhead_s += max(0.0, duration_s - boss.wall_s)

    def expected_s(self, passes: int, runs: int) -> float | None:
        """As they took; None without a run."""
        if not self._runs or not self._passes:
            return None
        return runs * self._overhead_s / self._runs + passes * self._wall_s / self._passes


class ProgressView:
    """Drawn until it is left; ``finished`` are the runs of the plan that need not be run."""

    def __init__(
        self,
        plan: Sequence[PlannedRun],
        *,
        enabled: bool,
        finished: Mapping[str, Report] = {},
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {run.name: run.passes for run in plan if run.name not in finished}
        self._total = len(plan)
        self._clock = clock
        self._pace = Pace()
        for report in finished.values():
            self._pace.add(report, None)
        self._began_s = clock()
        self._current: PlannedRun | None = None
        self._passes_before: int | None = None
        self._bar: Progress | None = None
        if enabled:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
            # What is logged meanwhile appears above the bar, unless it goes to a file.
            self._bar = Progress(*columns, console=Console(), redirect_stderr=sys.stderr.isatty(), transient=True)
            self._task = self._bar.add_task("", total=self._total, left="")

    def began(self, run: PlannedRun, *, passes_before: int | None) -> None:
        """A run is under way, or goes on after so many passes."""
        self._current, self._began_s, self._passes_before = run, self._clock(), passes_before
        number = self._total - len(self._left) + 1
        if self._bar is None:
            verb = "begins" if passes_before is None else "goes on"
            log.info("run %d of %d %s: %s; %s", number, self._total, verb, run.words, self.time_left())
        self.tick()

    def finished(self, run: PlannedRun, report: Report, *, ran: bool) -> None:
        """A run has ended well, or was found finished."""
        if self._left.pop(run.name, None) is not None:
            seen_whole = ran and self._passes_before is None
            self._pace.add(report, self._clock() - self._began_s if seen_whole else None)
        self._current = None
        if not ran:
            log.debug("%s was finished before and is not run again", run.name)
        self.tick()

    def tick(self) -> None:
        """Draw what is known by now."""
        if self._bar is None:
            return
        current = self._current
        number = self._total - len(self._left) + (current is not None)
        self._bar.update(
            self._task,
            description=f"run {number} of {self._total}" + (f": {current.words}" if current is not None else ""),
            completed=self._total - len(self._left) + self._share_of_current(),
            left=self.time_left(),
        )

    def _share_of_current(self) -> float:
        expected_s = self._pace.expected_s(self._current.passes) if self._current is not None else None
        return min(MOST_OF_A_RUN, self._behind_s() / expected_s) if expected_s else 0.0

    def _behind_s(self) -> float:
        """Seconds of the current run that are behind, those before it was interrupted by what its passes take."""
        before_s = self._pace.expected_s(self._passes_before or 0, runs=0) or 0.0
        return before_s + self._clock() - self._began_s

    def time_left(self) -> str:
        """In words."""
        seconds = self._pace.expected_s(sum(self._left.values()), len(self._left))
        if seconds is None:
            return "time left is known after the first run"
        if self._current is not None:
            seconds -= min(self._behind_s(), self._pace.expected_s(self._current.passes) or 0.0)
        return f"about {duration_in_words(seconds)} left"

    def __enter__(self) -> ProgressView:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration_in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 60:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
