"""What lies in the directories of a comparison's runs: runs that are finished, begun, failed, or another one's."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoassist.compare_plan import PlannedRun
from autoassist.ended import complete_report
from autoassist.remembered import COMMAND_FILE, Remembered, is_other_code
from broker.store import DATABASE
from protocol.errors import DataError, SettingError
from protocol.report import Report, read_report

REMEDY = "move it away or remove it, and give the same command again"


@dataclass(frozen=True)
class Common:
    """What all runs of a comparison have in common beside their settings, as it was when the comparison was planned."""

    dataset_id: str
    metric_name: str = ""
    """"" where it is not known yet."""
    code: str = ""
    """``remembered.code_of`` the workload."""

    def difference(self, report: Report) -> str:
        """What a run of this comparison cannot have, in words; "" where nothing is."""
        if report.dataset_id != self.dataset_id:
            return f"was trained on {report.dataset_id}, the comparison is one of {self.dataset_id}"
        if self.metric_name and report.metric.name not in ("", self.metric_name):
            named = f"ended with {report.metric.name}, the comparison is one by {self.metric_name}"
            return f"{named} (evaluate() has to give one name)"
        return ""


@dataclass(frozen=True)
class Found:
    """What lies in a run's directory."""

    report: Report | None
    """Of a finished run with these settings: it is not run again."""

    can_resume: bool = False
    passes_before: int = 0
    """Of a run that can be resumed, as it last wrote them down."""


def look(planned: PlannedRun, run_dir: Path, common: Common) -> Found:
    """What is there of a run; raises SettingError where it is another one's.

    A failed run is begun again, and so is random-drop where its pair has kept at another rate since.
    """
    if not _has_begun(run_dir):
        return Found(None)
    began, wanted = _began(run_dir), Remembered.of(planned.command)
    complete_report(run_dir)
    _require_same(began, wanted, run_dir, drop_rate_matters=not planned.pair)
    report = _reported(run_dir)
    if report is not None and (difference := common.difference(report)):
        raise SettingError(f"out={run_dir.parent}: {run_dir.name} {difference}; give another --out")
    if began.run.resolved() != wanted.run.resolved() or (report is not None and report.status == "failed"):
        return Found(None)
    is_finished = report is not None and report.status == "finished"
    if is_other_code(began.code, common.code):
        file, other = wanted.workload.rpartition(":")[0], "give another --out" if is_finished else f"remove {run_dir}"
        raise SettingError(
            f"out={run_dir.parent}: {run_dir.name} was begun with another {file}, and is none to compare with what "
            f"that is now; put it back, or {other}"
        )
    if is_finished:
        return Found(report)
    passes = report.boss.instances if report is not None else 0
    return Found(None, can_resume=(run_dir / DATABASE).exists(), passes_before=passes)


def _has_begun(run_dir: Path) -> bool:
    """False for one that is not there, and for one that was killed while it claimed its directory. Raises SettingError
    for what is no run's directory."""
    command = run_dir / COMMAND_FILE
    if command.exists():
        return command.stat().st_size > 0
    is_there = run_dir.exists() or run_dir.is_symlink()
    if is_there and not (run_dir.is_dir() and not any(run_dir.iterdir())):
        raise SettingError(f"{run_dir}: is no directory of a run ({COMMAND_FILE} is missing); {REMEDY}")
    return False


def _began(run_dir: Path) -> Remembered:
    try:
        return Remembered.read(run_dir)
    except DataError as error:
        raise SettingError(f"{str(error).partition(';')[0]}; {REMEDY}") from None


def finished_before(plan: Sequence[PlannedRun], out: Path, common: Common) -> dict[str, Report]:
    """Reports of the runs that need not be run, by name; raises SettingError where a directory holds another one's."""
    reports: dict[str, Report] = {}
    for planned in plan:
        run = planned.paired(reports[planned.pair]) if planned.pair in reports else planned
        report = look(run, out / run.name, common).report
        if report is not None and (not run.pair or run.pair in reports):
            reports[run.name] = report
    return reports


def _require_same(began: Remembered, wanted: Remembered, run_dir: Path, *, drop_rate_matters: bool) -> None:
    theirs, ours = began.run, wanted.run
    if not drop_rate_matters:
        theirs = dataclasses.replace(theirs, drop_rate=ours.drop_rate)
    parts = [ours.difference(theirs)]
    for name in ("workload", "train", "data", "checkpoint_every"):
        here, there = getattr(wanted, name), getattr(began, name)
        parts += [f"{name}: {here} here, {there} there"] if here != there else []
    if began.looks_ahead != wanted.looks_ahead:
        missing, choice = ("not ", "on") if began.looks_ahead else ("", "off")
        parts.append(f"{missing}looking ahead here: --look-ahead {choice}")
    if any(parts):
        raise SettingError(
            f"out={run_dir.parent}: holds {run_dir.name} with other settings ({'; '.join(p for p in parts if p)}); "
            f"give another --out, or the settings that it was begun with"
        )


def _reported(run_dir: Path) -> Report | None:
    try:
        return read_report(run_dir)
    except DataError:
        return None


def clear(run_dir: Path) -> None:
    """Remove what an unfinished run has left; only what is a run's directory by its command file."""
    if (run_dir / COMMAND_FILE).exists():
        shutil.rmtree(run_dir)
