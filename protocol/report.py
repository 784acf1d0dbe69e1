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

    steps: int  # trained and reported, on the plan or off it
    instances: int  # forward and backward passes; padding not, and off-plan ones only where their losses came
    wall_s: float  # seconds from the first batch in hand to the last report or wait; checkpoints are left out too
    train_s: float  # seconds: wall_s less exposed_wait_s
    exposed_wait_s: float  # seconds with nothing to train on, after the first batch
    exposed_wait_fraction: float  # of wall_s, 0 … 1
    startup_wait_s: float  # seconds of waiting before the first batch; 0 until the Boss has said Goodbye
    evaluation_s: float  # seconds in evaluation; 0 until the Boss has said Goodbye
    off_plan_steps: int  # of the steps: drawn by the Boss while no batch came
    off_plan_instances: int  # of the instances: those of off-plan steps
    report_us_p50: float  # µs that one report costs the training thread, median of the last 4096; 0 until the Goodbye
    report_us_p99: float  # µs, the 99th percentile of the same
    gradients_dropped: int = 0  # steps that trained nothing: their gradient was NaN or infinite


class StalenessReport(msgspec.Struct, kw_only=True):
    """In steps, over batches with at least one filtered segment; null where there are none."""

    p50: float | None  # steps: median over those batches, each by its stalest segment
    p99: float | None  # steps: 99th percentile over the same
    max: int | None  # steps: the stalest of them
    bound: int  # steps: the run's --staleness-bound


class EpochSelection(msgspec.Struct, kw_only=True):
    """One epoch."""

    epoch: int  # number, from 0
    offered: int  # instances of this epoch's windows that were decided, each counted once
    kept: int  # instances of the offered that went into batches or wait for it
    kept_fraction: float  # kept of offered, 0 … 1; 0 where nothing was offered
    unfiltered_fraction: float  # of the offered, 0 … 1: passed unselected, reopened and returned ones too


class SelectionReport(msgspec.Struct, kw_only=True):
    """What was offered and what was kept.

    Causes in ``passed_whole``: what the warm-up or the anneal would have passed anyway is ``warmup``, ``anneal``, even
    where nobody selected; of the rest ``uniform``, ``no_assistant``, ``urgent`` and ``patience`` are the reasons of
    unfiltered windows, ``gate`` is a window that an Assistant judged and left nothing out of, ``stale`` what was left
    out at first and passed when its window was reopened.
    """

    offered: int  # instances of all epochs' windows that were decided, each once an epoch
    kept: int  # instances of the offered that went into batches or wait for it
    kept_fraction: float  # kept of offered, 0 … 1; 0 where nothing was offered
    unfiltered_fraction: float  # of the offered, 0 … 1: passed unselected, reopened and returned ones too
    staleness_steps: StalenessReport  # how old the losses were that batches were selected by
    epochs: list[EpochSelection]  # the same figures epoch by epoch, in order
    unfiltered_windows: dict[str, int]  # windows that passed whole, by reason: uniform, no_assistant, urgent, patience
    reopened_windows: int  # windows whose selection became too stale in stock: what was untrained of them passed whole
    passed_whole: dict[str, int] = {}  # instances that passed whatever they were worth, by cause


class LossReportsReport(msgspec.Struct, kw_only=True):
    """Loss reports of all ranks, and loss values."""

    sent: int  # reports that the Boss sent, one a step and rank; until its Goodbye those delivered
    delivered: int  # reports that the broker has counted, repeated ones once
    values_dropped: int  # loss values of steps on the plan that did not come: the Boss's ring of reports was full
    values_not_finite: int  # loss values of steps on the plan that were NaN or infinite, a skipped batch's too


class TokensReport(msgspec.Struct, kw_only=True):
    """Of a run with --max-tokens: what the batches that were cut hold, and what of it is padding."""

    max_tokens: int  # most tokens of a rank's batch, padding counted
    pool_steps: int  # steps' worth of instances that were sorted by length together
    tokens: int  # tokens of the instances in those batches, flushes left out
    padded_tokens: int  # the same with padding: rows times the longest, batch by batch
    padding_fraction: float  # of padded_tokens, 0 … 1
    flushed_steps: int  # steps that were cut out of turn, since a selection was near the staleness bound
    flushed_padding_fraction: float  # of their padded tokens, 0 … 1


class MetricReport(msgspec.Struct, kw_only=True):
    """The held-out metric; ``history`` rows are [epoch, boss_instances, wall_s, value]. Null for what is not finite."""

    name: str  # as the workload calls it; empty before the first evaluation
    value: float | None  # of the latest evaluation, in the metric's own unit
    history: list[tuple[int, int, float | None, float | None]]  # number from 0, instances, seconds, the metric's unit


class AssistantReport(msgspec.Struct, kw_only=True):
    """One Assistant."""

    name: str  # as --name says
    starts: int  # processes that have joined under this name
    windows: int  # selections of its that were accepted, one a window
    offered: int  # instances of those windows
    kept: int  # instances that it kept of them
    selections_late: int  # selections that came when the lease was no longer its own
    selections_stale: int  # selections that would exceed the staleness bound; the window was offered again
    selections_refused: int  # selections that could not be right; the window was offered again
    leases_expired: int  # windows that it held longer than --lease-s
    records_dropped: int  # loss-log records, one a step and rank, that it was not sent because it lagged too far
    figures: Mapping[str, float | None]  # by name, as it said in its Goodbye; empty where it had no time to
    set_aside: list[int] = []  # IDs that its noise guard left out, surest first, at most 1000; as figures


class Report(msgspec.Struct, kw_only=True):
    """The whole file."""

    schema_version: int = 1  # of this file's layout
    status: str  # running, finished, stopped, failed
    run_id: str  # made by the broker, another for each run
    workload: str  # as the Boss was told, with its model; says in brackets which small set stood in for it, if one did
    policy: str  # the run's --policy
    seed: int  # the run's --seed
    epochs: int  # offerings of the whole training set that were asked for; 0 where boss_instances_budget is the measure
    boss_instances_budget: int  # instances to train that were asked for; 0 where epochs is the measure
    world_size: int  # Boss ranks
    dataset_id: str  # name of the training set that was served, and a hash of its content
    n: int  # instances of the training set
    settings: dict[str, Any]  # all of the run's settings, as the broker kept them
    boss: BossReport  # what the Boss did, and its clocks
    selection: SelectionReport  # what was offered and kept
    loss_reports: LossReportsReport  # how the Boss's losses came back
    tokens: TokensReport | None = None  # null where batches were cut by the number of instances
    metric: MetricReport  # the workload's evaluation on held-out data
    assistants: list[AssistantReport]  # each that has ever joined
    refused_input: dict[str, int]  # messages not taken since the broker last started, by cause; duplicates too
    refused_input_from: dict[str, int] = {}  # the same by the role that it came from; "strangers" have said no Hello
    versions: dict[str, str]  # of Python, the platform and the packages, at the broker


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
