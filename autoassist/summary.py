"""The last words of a run: what it cost, what it reached, and what it did not save."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autoassist.figures import sparkline
from autoassist.terminal import shown
from autoassist.why_whole import why_whole
from protocol.metric import metric_text
from protocol.report import Report

COMMAND_FILE = "command.json"
"""Where a run lies that ``autoassist run`` has begun; what ``autoassist.remembered`` reads, which imports torch."""
MOST_NOTICES = 12
MOST_EPOCHS = 12
"""Epochs whose shares are told one by one."""
MOST_BARS = 24
"""Bars for more of them."""


def print_summary(report: Report, run_dir: Path, notices: Sequence[str] = ()) -> None:
    """Print the report as a short table and one honest sentence; then the warnings that had come."""
    name = report.workload.rpartition("/")[2]
    title = f"{name} · {report.policy} · seed {report.seed} · {report.status}"
    table = Table(title=shown(title, "table.title"), title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in rows(report):
        table.add_row(shown(figure), value)
    console = Console()
    console.print(table)
    console.print(shown(verdict(report)))
    console.print(shown(f"report: {run_dir / 'report.json'}"), soft_wrap=True)
    if report.status == "stopped" and (run_dir / COMMAND_FILE).exists():
        console.print(shown(f"go on: autoassist run --resume {run_dir}"), soft_wrap=True)
    for notice in notices[:MOST_NOTICES]:
        console.print(shown(f"warning: {notice}"), soft_wrap=True)
    if len(notices) > MOST_NOTICES:
        more = f"{len(notices) - MOST_NOTICES} more warnings: {run_dir / 'logs'}"
        console.print(shown(more), soft_wrap=True)


def rows(report: Report) -> list[tuple[str, str]]:
    """(figure, value) pairs in the order of interest."""
    boss, selection, stale = report.boss, report.selection, report.selection.staleness_steps
    metric = "-" if report.metric.value is None else metric_text(report.metric.value)
    staleness = "-" if stale.p50 is None else f"{stale.p50:.0f} / {stale.p99:.0f} / {stale.max} (bound {stale.bound})"
    return [
        (report.metric.name or "metric", metric),
        ("Boss passes", f"{boss.instances} in {boss.steps} steps"),
        ("offered, kept", f"{selection.offered}, {selection.kept} ({selection.kept_fraction:.1%})"),
        ("kept by epoch", _by_epoch([e.kept_fraction for e in selection.epochs])),
        ("unfiltered", f"{selection.unfiltered_fraction:.1%}"),
        *_padding(report),
        *_looked_at(report),
        ("staleness p50 / p99 / max, steps", staleness),
        ("exposed wait", f"{boss.exposed_wait_s:.2f} s of {boss.wall_s:.1f} s ({boss.exposed_wait_fraction:.2%})"),
        ("off the plan", f"{boss.off_plan_instances} in {boss.off_plan_steps} steps"),
        ("report cost p50 / p99", f"{boss.report_us_p50:.0f} / {boss.report_us_p99:.0f} µs"),
        (
            "loss values dropped, not finite",
            f"{report.loss_reports.values_dropped}, {report.loss_reports.values_not_finite}",
        ),
        ("steps without a finite gradient", f"{boss.gradients_dropped}"),
    ]


def _by_epoch(shares: Sequence[float]) -> str:
    """Each share where they are few; else the first and the last, and what lies between as bars of equally many."""
    if len(shares) <= MOST_EPOCHS:
        return ", ".join(f"{share:.0%}" for share in shares)
    bars = min(MOST_BARS, len(shares))
    ends = [len(shares) * i // bars for i in range(bars + 1)]
    means = [sum(shares[a:b]) / (b - a) for a, b in pairwise(ends)]
    least = min(range(len(shares)), key=shares.__getitem__)
    line = f"{shares[0]:.0%} {sparkline(means, 1.0)} {shares[-1]:.0%}"
    return f"{line}\nof {len(shares)} epochs; least {shares[least]:.0%}, in epoch {least}"


def _padding(report: Report) -> list[tuple[str, str]]:
    tokens = report.tokens
    if tokens is None:
        return []
    return [
        (
            "padding, flushed steps",
            f"{tokens.padding_fraction:.1%} of {tokens.padded_tokens} tokens, {tokens.flushed_steps}",
        )
    ]


def _looked_at(report: Report) -> list[tuple[str, str]]:
    """By each Assistant: several look at the same."""
    counts = [one.figures.get("instances_looked_at") for one in report.assistants]
    if all(count is None for count in counts):
        return []
    return [("looked at before they were offered", ", ".join(f"{count or 0.0:.0f}" for count in counts))]


def verdict(report: Report) -> str:
    """What the run shows about saving, and what it does not: measured by what was offered, not by what never came."""
    if report.status != "finished":
        how = {"stopped": "was stopped", "failed": "failed"}.get(report.status, "has not ended")
        return f"The run {how} after {report.boss.instances} {_of_budget(report)}: its figures are those of a part."
    why = why_whole(report)
    if report.policy == "uniform" or report.selection.kept == report.selection.offered:
        return f"Nothing was left out{f'. {why}' if why else '; compare with another policy at the same seed.'}"
    beside = "Whether that costs accuracy shows only beside the same run with --policy uniform."
    return " ".join(filter(None, (_saving(report), why, beside)))


def _of_budget(report: Report) -> str:
    """The budget in words, to come after a number of instances."""
    if report.boss_instances_budget:
        return f"of {report.boss_instances_budget} instances"
    begun = min(len(report.selection.epochs), report.epochs)
    return f"instances, in epoch {begun} of {report.epochs}"


def _saving(report: Report) -> str:
    """How many passes the selection has saved. Off-plan passes are extra ones, and count against it."""
    selection, boss = report.selection, report.boss
    if report.boss_instances_budget:
        return (
            f"The Boss's {boss.instances} passes went through {selection.offered / report.n:.1f} epochs, "
            f"{1.0 - selection.kept_fraction:.1%} of them left out; with nothing left out they reach "
            f"{boss.instances / report.n:.1f}."
        )
    saved = 1.0 - boss.instances / selection.offered
    epochs = f"the {report.epochs} epochs" if report.epochs > 1 else "the epoch"
    than = f"than the {selection.offered} that {epochs} offered"
    if saved < 0:
        return f"The Boss trained {-saved:.1%} more instances {than}: batches off the plan cost more than was left out."
    return f"The Boss trained {saved:.1%} fewer instances {than}."
