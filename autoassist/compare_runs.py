"""Runs a plan: each run as a process of its own, one after the other, as a user would start it; resumable."""

from __future__ import annotations

import fcntl
import logging
import queue
import shutil
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from autoassist.children import Child
from autoassist.compare_found import Common, Found, clear, look
from autoassist.compare_plan import PlannedRun
from autoassist.compare_progress import ProgressView
from autoassist.compare_result import RunResult
from autoassist.notices import Notices
from autoassist.remembered import Remembered, is_other_code
from protocol.errors import DataError, RoleFailed, SettingError
from protocol.processes import ending
from protocol.report import Report, read_report
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.compare")

TICK_S = 1.0
"""How often the progress line moves while a run is under way."""
LOCK_FILE = "compare.lock"


class RunFailed(RoleFailed):
    """A run has failed; the command ends with the run's own exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Runner:
    """Brings each planned run to its end, in order."""

    def __init__(
        self,
        plan: Sequence[PlannedRun],
        out: Path,
        common: Common,
        *,
        finished: Collection[str] = (),
        stop: StopSignal,
        notices: Notices,
        view: ProgressView,
        debug: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.reports: dict[str, Report] = {}
        """Of the finished runs, by name."""
        self._plan = plan
        self._out = out
        self._common = common
        self._finished = frozenset(finished)
        self._stop = stop
        self._notices = notices
        self._view = view
        self._debug = debug
        self._environment = environment or {}
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        stop.on_stop = lambda: self._wake.put(None)

    @property
    def kept(self) -> str:
        """How many runs are finished, those of the plan's rest too."""
        return f"{len(self._finished | self.reports.keys())} of {len(self._plan)} runs are finished and kept"

    @property
    def _if_its_file_changes(self) -> str:
        is_kept = self._common.code and (self._finished or self.reports)
        return ", or another --out where the workload's file has to change" if is_kept else ""

    def execute(self) -> bool:
        """Run what is not finished; False where a signal has ended it. Raises RunFailed."""
        (self._out / "logs").mkdir(exist_ok=True)
        for planned in self._plan:
            if self._stop.requested:
                return False
            run = planned.paired(self.reports[planned.pair]) if planned.pair else planned
            found = look(run, self._out / run.name, self._common)
            report = found.report or self._run(run, found)
            if report is None:
                return False
            if found.report is None:
                self._require_comparable(run, report)
            self.reports[run.name] = report
            self._view.finished(run, report, ran=found.report is None)
        return True

    def _run(self, run: PlannedRun, found: Found) -> Report | None:
        """The report of a run that has finished; None where a signal has ended it before."""
        run_dir = self._out / run.name
        if not found.can_resume:
            clear(run_dir)
        words = run.arguments(run_dir, resume=found.can_resume) + (["--debug"] if self._debug else [])
        child = Child(
            run.name,
            words,
            self._out / "logs" / f"{run.name}.log",
            on_line=self._heard,
            on_news=lambda: self._wake.put(None),
            environment=self._environment,
        )
        self._view.began(run, passes_before=found.passes_before if found.can_resume else None)
        self._supervise(child)
        report = _finished(run_dir)
        if child.code == 0 and report is not None:
            return report
        if self._stop.requested:
            return None
        if report is not None:  # an Assistant was lost, say: trained to the end, but not to be compared
            _set_aside(run_dir)
        code = child.code or 1
        raise RunFailed(
            f"{run.name} {ending(code)}: {child.last_words} (log: {child.log_file}); {self.kept}, the same command "
            f"goes on from here{self._if_its_file_changes}"
            + (f"; to begin this one again, remove {run_dir}" if found.can_resume and report is None else ""),
            code if code > 0 else 128 - code,
        )

    def _require_comparable(self, run: PlannedRun, report: Report) -> None:
        """What has just finished is of the data that the plan was made for, and has a metric; else it is set aside, and
        the comparison ends here and not after hours."""
        problem, code = self._common.difference(report), Remembered.read(self._out / run.name).code
        if is_other_code(code, self._common.code):
            problem = "was trained with another file of the workload than the comparison was planned for"
        if problem:
            changed = "that has changed meanwhile; put it back and give the same command, or another --out"
            problem = f"{run.name}: {problem}: {changed}"
        else:
            try:
                RunResult.of(report, budget=run.budget, run_dir=run.name)
            except DataError as error:
                problem = f"{error}; {self.kept}"
        if problem:
            _set_aside(self._out / run.name)
            raise RunFailed(problem, 1)

    def _supervise(self, child: Child) -> None:
        """Until it ends. A signal is handed on, so that it ends in order; another one, which makes it end at once."""
        told = 0
        child.start()
        try:
            while child.is_running:
                with suppress(queue.Empty):
                    self._wake.get(timeout=TICK_S)
                if told < self._stop.count:
                    if told == 0:
                        log.info("stopping %s in order; another signal kills it at once", child.name)
                    told += 1
                    child.tell(signal.SIGTERM)
                self._view.tick()
        finally:
            if child.is_running:
                child.tell(signal.SIGTERM)

    def _heard(self, name: str, line: str) -> None:
        """Warnings of a run are said, each once in the whole comparison; the rest is in its log."""
        if self._notices.hears(name, line):
            log.info("[%s] %s", name, line)


def _finished(run_dir: Path) -> Report | None:
    try:
        report = read_report(run_dir)
    except DataError:
        return None
    return report if report.status == "finished" else None


def _set_aside(run_dir: Path) -> None:
    target = run_dir.with_name(f"{run_dir.name}.failed")
    shutil.rmtree(target, ignore_errors=True)
    run_dir.rename(target)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """The directory, made if it is not there, for one comparison at a time; raises SettingError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK_FILE).open("ab")
    except OSError as error:
        raise SettingError(f"out={out}: {error.strerror or error}; give an --out that can be written") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"out={out}: another comparison uses it; wait for it, or give another --out") from None
        yield
