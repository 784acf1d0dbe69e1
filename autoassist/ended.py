"""A run that no broker serves any more, as its directory tells it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from broker.core import BrokerCore
from broker.hub import Hub
from broker.report import build_report, build_statistics
from broker.store import RunStore
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


def _written(run_dir: Path) -> Report | None:
    """What refused input and versions stand in, which the store does not keep; None where it is not of the end."""
    try:
        report = read_report(run_dir)
    except DataError:
        return None
    return report if report.status != "running" else None
