"""``RUN_DIR/report.json``: what a run was and what it cost, validated against these types when read.

``schema()`` gives the JSON Schema. Fields are only ever added.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from protocol.errors import DataError

REPORT_FILE = "report.json"


class BossReport(msgspec.Struct, kw_only=True):
    """The Boss's own clocks; evaluation is in none of them but ``evaluation_s``."""

    steps: int
    instances: int  # forward and backward passes
    wall_s: float  # from the first batch in hand to the last report
    train_s: float  # wall_s less exposed_wait_s
    exposed_wait_s: float  # nothing to train on, after the first batch
    exposed_wait_fraction: float  # of wall_s
    startup_wait_s: float  # from connecting to the first batch
    evaluation_s: float
    off_plan_steps: int  # of the steps: drawn by the Boss while no batch came
    off_plan_instances: int
    report_us_p50: float  # what one report costs the training thread
    report_us_p99: float


class StalenessReport(msgspec.Struct, kw_only=True):
    """In steps, over batches with at least one filtered segment; null where there are none."""

    p50: float | None
    p99: float | None
    max: int | None
    bound: int


class EpochSelection(msgspec.Struct, kw_only=True):
    """One epoch."""

    epoch: int
    offered: int
    kept: int
    kept_fraction: float
    unfiltered_fraction: float


class SelectionReport(msgspec.Struct, kw_only=True):
    """What was offered and what was kept."""

    offered: int
    kept: int
    kept_fraction: float
    unfiltered_fraction: float  # of the offered: passed whole, without an Assistant's answer
    staleness_steps: StalenessReport
    epochs: list[EpochSelection]
    unfiltered_windows: dict[str, int]  # by reason
    reopened_windows: int


class LossReportsReport(msgspec.Struct, kw_only=True):
    """Loss reports of all ranks, and loss values."""

    sent: int
    delivered: int
    values_dropped: int
    values_not_finite: int


class MetricReport(msgspec.Struct, kw_only=True):
    """The held-out metric; ``history`` rows are [epoch, boss_instances, wall_s, value]. Null for what is not finite."""

    name: str
    value: float | None
    history: list[tuple[int, int, float | None, float | None]]


class AssistantReport(msgspec.Struct, kw_only=True):
    """One Assistant."""

    name: str
    starts: int
    windows: int
    offered: int
    kept: int
    selections_late: int
    selections_stale: int
    selections_refused: int
    leases_expired: int
    records_dropped: int
    figures: Mapping[str, float | None]  # as it said in its Goodbye; empty where it had no time to


class Report(msgspec.Struct, kw_only=True):
    """The whole file."""

    schema_version: int = 1
    status: str  # running, finished, stopped, failed
    run_id: str
    workload: str
    policy: str
    seed: int
    epochs: int
    boss_instances_budget: int
    world_size: int
    dataset_id: str
    n: int
    settings: dict[str, Any]
    boss: BossReport
    selection: SelectionReport
    loss_reports: LossReportsReport
    metric: MetricReport
    assistants: list[AssistantReport]
    refused_input: dict[str, int]  # by cause
    refused_input_from: dict[str, int] = {}  # by the role that it came from; "strangers" have said no Hello
    versions: dict[str, str]


def schema() -> dict[str, Any]:
    """JSON Schema of the report."""
    return msgspec.json.schema(Report)


def encode_report(report: Report) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def read_report(run_dir: Path) -> Report:
    """Read and validate; raises DataError where the file is missing or is no report."""
    path = run_dir / REPORT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the --run-dir of a run that has written its report") from None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: {error}; it is not a report of this version") from None
