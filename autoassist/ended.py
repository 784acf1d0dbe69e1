"""A run that no broker serves any more, as its directory tells it."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from autoassist.summary import COMMAND_FILE
from broker.core import BrokerCore
from broker.hub import Hub
from broker.report import build_report, build_statistics, write_report
from broker.rows import RunRow
from broker.run_lock import is_served
from broker.store import RunStore, stored_rows
from protocol.errors import AutoAssistError, DataError
from protocol.report import Report, read_report
from protocol.statistics import RunStatistics


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The last that is known of it."""

    statistics: RunStatistics | None
    """None where the store cannot be read."""
    report: Report


def read_ended(run_dir: Path) -> Ended | None:
    """None where the run has not ended, or neither its store nor its report can be read."""
    try:
        with closing(RunStore(run_dir, writable=False)) as store:
            core = BrokerCore.from_rows("", store.rows())
        if core.state.run is None or not core.state.run.ended:
            return None
        last = replace(build_statistics(core, Hub(), 0.0), broker_cpu_percent=0.0, broker_rss_bytes=0)  # not this one's
        return Ended(statistics=last, report=_written(run_dir) or build_report(core, Hub()))
    except (AutoAssistError, LookupError, ValueError, AssertionError):
        report = _written(run_dir)
        return Ended(statistics=None, report=report) if report is not None else None


def complete_report(run_dir: Path) -> None:
    """Write the report of a run whose end is in its store alone: whoever was to write it was killed in between, or the
    disk was full. It lacks the figures of Assistants that had not said Goodbye. Raises StoreError where it is full
    still."""
    try:
        last = read_report(run_dir)
    except DataError:
        last = None
    if last is not None and last.status == "finished":  # whoever looks at such a run leaves it as it is
        return
    is_finished = False
    with suppress(AutoAssistError):
        is_finished = any(isinstance(row, RunRow) and row.ended == "finished" for _, row in stored_rows(run_dir))
    if not is_finished or is_served(run_dir) or (found := read_ended(run_dir)) is None:  # who serves it writes it
        return
    report = found.report
    if last is not None:  # of the last epoch's end; the store keeps neither what was refused nor by whom it was trained
        report = replace(
            report,
            refused_input=last.refused_input,
            refused_input_from=last.refused_input_from,
            versions=last.versions,
        )
    write_report(run_dir, report)


def what_became_of(run_dir: Path) -> str:
    """In words, with what can be done, of a run that has not ended and that no broker of this machine serves."""
    try:
        with closing(RunStore(run_dir, writable=False)) as store:
            has_begun = any(isinstance(row, RunRow) for _, row in store.rows())
    except AutoAssistError as error:
        return f"no broker of this machine serves its run, and {error}"
    resume, serve = f"autoassist run --resume {run_dir}", f"autoassist broker --run-dir {run_dir} serves it again"
    begin, go_on = f"{resume} begins it", f"{resume} goes on with it"
    if not (run_dir / COMMAND_FILE).exists():  # roles of their own, or a script with Feed.local
        begin, go_on = f"{serve}, for a Boss to begin it", f"{serve}, for its Boss (--resume if that has ended too)"
    if not has_begun:
        return f"its broker has ended before any Boss came; {begin}"
    what = "its run has not ended, and no broker of this machine serves it, so it was killed"
    return f"{what}; autoassist report {run_dir} shows how far it came, {go_on}"


def _written(run_dir: Path) -> Report | None:
    """What refused input and versions stand in, which the store does not keep; None where it is not of the end."""
    try:
        report = read_report(run_dir)
    except DataError:
        return None
    return report if report.status != "running" else None
