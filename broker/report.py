"""Fills the report and the statistics from the broker's rows."""

from __future__ import annotations

import math
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from broker.core import BrokerCore
from broker.hub import Hub
from broker.leasing import batches_in_hand
from broker.rows import PeerRow
from broker.state import State
from broker.store_errors import unwritable
from broker.whole import PREFIX
from protocol.report import (
    REPORT_FILE,
    AssistantReport,
    BossReport,
    EpochSelection,
    LossReportsReport,
    MetricReport,
    Report,
    SelectionReport,
    StalenessReport,
    TokensReport,
    encode_report,
)
from protocol.statistics import MOST_HISTORY, PeerStatistics, RunStatistics
from protocol.vitals import Vitals

VITALS = Vitals()
PACKAGES = ("autoassist", "torch", "pyzmq", "msgpack", "msgspec", "numpy", "psutil")


def quantile(counts: dict[int, int], share: float) -> float | None:
    """The least value with at least ``share`` of the counts at or below it; None where there are none."""
    total, below = sum(counts.values()), 0
    for value in sorted(counts):
        below += counts[value]
        if below >= share * total:
            return float(value)
    return None


def fraction(part: float, whole: float) -> float:
    """``part / whole``; 0 where there is nothing."""
    return part / whole if whole else 0.0


def build_report(core: BrokerCore, hub: Hub) -> Report:
    """The report as of now; ``status`` is "running" until the run has ended."""
    state, run = core.state, core.state.the_run
    return Report(
        status=run.ended or "running",
        run_id=run.run_id,
        workload=run.workload or run.dataset_id.partition(":")[0],
        policy=run.settings.policy,
        seed=run.settings.seed,
        epochs=run.settings.epoch_budget or 0,
        boss_instances_budget=run.settings.boss_instances or 0,
        world_size=run.settings.world_size,
        dataset_id=run.dataset_id,
        n=run.n,
        settings=run.settings.as_dict(),
        boss=_boss(state),
        selection=_selection(state),
        loss_reports=LossReportsReport(
            sent=_reports_sent(state),
            delivered=int(run.counters.get("reports_delivered", 0)),
            values_dropped=int(run.counters.get("values_dropped", 0)),
            values_not_finite=int(run.counters.get("values_not_finite", 0)),
        ),
        tokens=_tokens(state),
        metric=_metric(state),
        assistants=[_assistant(p) for p in state.peers.values() if p.role == "assistant"],
        refused_input=dict(hub.refused),
        refused_input_from=dict(hub.refused_from),
        versions=versions(),
    )


def _last_clocks(state: State) -> dict[str, float]:
    """What a Boss that has said no Goodbye, or not yet, said of its clocks after the last epoch."""
    results = [e.result for e in state.epochs.values() if e.result is not None]
    if not results:
        return {}
    last = max(results, key=lambda r: r.epoch)
    clocks = {"wall_s": last.wall_s, "exposed_wait_s": last.exposed_wait_s}
    return clocks if all(map(math.isfinite, clocks.values())) else {}


def _reports_sent(state: State) -> int:
    """What the ranks say that they have sent, beside what came before they resumed; what came, where one is silent."""
    counters, ranks = state.the_run.counters, state.settings.world_size
    bosses = [p for p in state.peers.values() if p.role == "boss" and p.rank < ranks and "reports_sent" in p.figures]
    if len(bosses) < ranks:
        return int(counters.get("reports_delivered", 0))
    return int(counters.get("reports_before", 0) + sum(p.figures["reports_sent"] for p in bosses))


def _boss(state: State) -> BossReport:
    run = state.the_run
    figures = run.boss_figures or _last_clocks(state)
    wall_s = figures.get("wall_s", 0.0)
    exposed_wait_s = figures.get("exposed_wait_s", 0.0)
    return BossReport(
        steps=run.log_step - int(run.counters.get("returned_steps", 0)),
        off_plan_steps=run.off_plan_steps,
        off_plan_instances=int(run.counters.get("off_plan_instances", 0)),
        instances=run.instances_trained,
        wall_s=wall_s,
        train_s=wall_s - exposed_wait_s,
        exposed_wait_s=exposed_wait_s,
        exposed_wait_fraction=fraction(exposed_wait_s, wall_s),
        startup_wait_s=figures.get("startup_wait_s", 0.0),
        evaluation_s=figures.get("evaluation_s", 0.0),
        report_us_p50=figures.get("report_us_p50", 0.0),
        report_us_p99=figures.get("report_us_p99", 0.0),
        gradients_dropped=int(figures.get("gradients_dropped", 0)),
    )


def _selection(state: State) -> SelectionReport:
    run = state.the_run
    rows = sorted(state.epochs.values(), key=lambda e: e.epoch)
    offered, kept = sum(e.offered for e in rows), sum(e.kept for e in rows)
    prefix = "unfiltered_windows_"
    return SelectionReport(
        offered=offered,
        kept=kept,
        kept_fraction=fraction(kept, offered),
        unfiltered_fraction=fraction(sum(e.unfiltered for e in rows), offered),
        staleness_steps=StalenessReport(
            p50=quantile(run.staleness_counts, 0.5),
            p99=quantile(run.staleness_counts, 0.99),
            max=max(run.staleness_counts, default=None),
            bound=run.settings.staleness_bound,
        ),
        epochs=[
            EpochSelection(
                epoch=e.epoch,
                offered=e.offered,
                kept=e.kept,
                kept_fraction=fraction(e.kept, e.offered),
                unfiltered_fraction=fraction(e.unfiltered, e.offered),
            )
            for e in rows
        ],
        unfiltered_windows={k.removeprefix(prefix): int(v) for k, v in run.counters.items() if k.startswith(prefix)},
        reopened_windows=int(run.counters.get("reopened_windows", 0)),
        passed_whole={k.removeprefix(PREFIX): int(v) for k, v in run.counters.items() if k.startswith(PREFIX)},
    )


def _tokens(state: State) -> TokensReport | None:
    run = state.the_run
    if run.settings.max_tokens is None:
        return None
    names = ("tokens", "padded_tokens", "flushed_steps", "flushed_tokens", "flushed_padded_tokens")
    tokens, padded, flushes, flushed, flushed_padded = (int(run.counters.get(name, 0)) for name in names)
    return TokensReport(
        max_tokens=run.settings.max_tokens,
        pool_steps=run.settings.pool_depth,
        tokens=tokens,
        padded_tokens=padded,
        padding_fraction=fraction(padded - tokens, padded),
        flushed_steps=flushes,
        flushed_padding_fraction=fraction(flushed_padded - flushed, flushed_padded),
    )


def _metric(state: State) -> MetricReport:
    results = [e.result for e in sorted(state.epochs.values(), key=lambda e: e.epoch) if e.result is not None]
    return MetricReport(
        name=results[-1].metric_name if results else "",
        value=results[-1].metric_value if results else None,
        history=[(r.epoch, r.boss_instances, r.wall_s, r.metric_value) for r in results],
    )


def _assistant(row: PeerRow) -> AssistantReport:
    counts = {k: int(v) for k, v in row.counters.items()}
    names = (
        "starts",
        "windows",
        "offered",
        "kept",
        "selections_late",
        "selections_stale",
        "selections_refused",
        "leases_expired",
        "records_dropped",
    )
    numbers = {name: counts.get(name, 0) for name in names}
    return AssistantReport(name=row.name, figures=row.figures, set_aside=row.set_aside, **numbers)


@cache
def versions() -> dict[str, str]:
    """Of Python, the platform and what matters of the packages; read once, since reading takes a dozen files."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_report(run_dir: Path, report: Report) -> None:
    """Write atomically.

    Raises StoreError on a full disk, and OutOfFiles where this process, or the machine, may open no more.
    """
    part = run_dir / (REPORT_FILE + ".part")
    try:
        part.write_bytes(encode_report(report))
        part.replace(run_dir / REPORT_FILE)
    except OSError as error:
        raise unwritable(run_dir, error) from error


def build_statistics(core: BrokerCore, hub: Hub, now: float) -> RunStatistics:
    """The run at this moment; empty before a Boss has come."""
    state = core.state
    if state.run is None:
        return RunStatistics(
            run_id=core.run_id, refused=dict(hub.refused), refused_from=dict(hub.refused_from), **_vitals()
        )
    run, settings, boss = state.run, state.settings, state.boss()
    epoch, last_epoch = state.epoch(run.cut_epoch), state.epoch(run.cut_epoch - 1)
    results = [e.result for e in sorted(state.epochs.values(), key=lambda e: e.epoch) if e.result is not None]
    return RunStatistics(
        run_id=run.run_id,
        policy=settings.policy,
        epoch=run.cut_epoch,
        epochs=settings.epoch_budget or 0,
        boss_budget=settings.boss_instances or 0,
        n=run.n,
        progress=_progress(state),
        next_step=run.next_step,
        trained_steps=run.log_step,
        instances_trained=run.instances_trained,
        offered=sum(e.offered for e in state.epochs.values()),
        kept=sum(e.kept for e in state.epochs.values()),
        unfiltered=sum(e.unfiltered for e in state.epochs.values()),
        epoch_offered=epoch.offered,
        epoch_kept=epoch.kept,
        last_epoch_offered=last_epoch.offered,
        last_epoch_kept=last_epoch.kept,
        stock_instances=state.line_instances + state.ahead_instances,
        leased_windows=len(state.lease_deadlines),
        ready_batches=batches_in_hand(core.state) if boss is not None else 0,
        staleness_p50=quantile(run.staleness_counts, 0.5),
        staleness_p99=quantile(run.staleness_counts, 0.99),
        staleness_max=max(run.staleness_counts, default=None),
        staleness_bound=settings.staleness_bound,
        **_token_counts(state),
        values_dropped=int(run.counters.get("values_dropped", 0)),
        refused=dict(hub.refused),
        refused_from=dict(hub.refused_from),
        metric_name=results[-1].metric_name if results else "",
        metric_value=results[-1].metric_value if results else None,
        metric_history=[(r.boss_instances, r.metric_value) for r in results[-MOST_HISTORY:]],
        exposed_wait_s=results[-1].exposed_wait_s if results else 0.0,
        wall_s=results[-1].wall_s if results else 0.0,
        ended=run.ended,
        **_vitals(),
        peers=[_peer(core, hub, name, now) for name in sorted(state.members)],
    )


def _token_counts(state: State) -> dict[str, Any]:
    """None where batches are not cut by tokens."""
    names, counters = ("tokens", "padded_tokens", "flushed_steps"), state.the_run.counters
    return {name: int(counters.get(name, 0)) for name in names if state.settings.max_tokens is not None}


def _vitals() -> dict[str, Any]:
    """What this process uses."""
    VITALS.refresh()
    return {"broker_cpu_percent": VITALS.cpu_percent, "broker_rss_bytes": VITALS.rss_bytes}


def _progress(state: State) -> float:
    run, settings = state.the_run, state.settings
    if settings.boss_instances:
        return min(1.0, run.instances_trained / settings.boss_instances)
    offered = sum(e.offered for e in state.epochs.values())
    return min(1.0, offered / ((settings.epoch_budget or 1) * run.n))


def _peer(core: BrokerCore, hub: Hub, name: str, now: float) -> PeerStatistics:
    member, conversation = core.state.members[name], hub.by_name.get(name)
    return PeerStatistics(
        name=name,
        role=member.row.role,
        silent_s=now - conversation.last_heard if conversation is not None else 0.0,
        leases=sum(row.assistant == name for row in core.state.leased()),
        backlog_records=core.state.the_run.log_records - member.cursor if member.row.role == "assistant" else 0,
        learned_through=member.learned_through,
        windows=int(member.row.counters.get("windows", 0)),
        lift=member.lift,
        lift_error=member.lift_error,
        cpu_percent=conversation.cpu_percent if conversation is not None else 0.0,
        rss_bytes=conversation.rss_bytes if conversation is not None else 0,
        previews=conversation is not None and conversation.previews,
        credits=member.slots if member.row.role == "assistant" else max(0, member.credit - member.yielded),
        offered=int(member.row.counters.get("offered", 0)),
        kept=int(member.row.counters.get("kept", 0)),
    )
