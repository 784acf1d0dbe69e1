"""The last words of a run: what it cost, what it reached, and what it did not save."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from protocol.report import Report


def print_summary(report: Report, run_dir: Path) -> None:
    """Print the report as a short table and one honest sentence."""
    table = Table(
        title=f"{report.workload} · {report.policy} · seed {report.seed} · {report.status}", title_justify="left"
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in rows(report):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(verdict(report))
    console.print(f"report: {run_dir / 'report.json'}", soft_wrap=True)


def rows(report: Report) -> list[tuple[str, str]]:
    """(figure, value) pairs in the order of interest."""
    boss, selection, stale = report.boss, report.selection, report.selection.staleness_steps
    metric = "-" if report.metric.value is None else f"{report.metric.value:.4f}"
    staleness = "-" if stale.p50 is None else f"{stale.p50:.0f} / {stale.p99:.0f} / {stale.max} (bound {stale.bound})"
    return [
        (report.metric.name or "metric", metric),
        ("Boss passes", f"{boss.instances} in {boss.steps} steps"),
        ("offered, kept", f"{selection.offered}, {selection.kept} ({selection.kept_fraction:.1%})"),
        ("kept by epoch", ", ".join(f"{e.kept_fraction:.0%}" for e in selection.epochs)),
        ("unfiltered", f"{selection.unfiltered_fraction:.1%}"),
        ("staleness p50 / p99 / max, steps", staleness),
        ("exposed wait", f"{boss.exposed_wait_s:.2f} s of {boss.wall_s:.1f} s ({boss.exposed_wait_fraction:.2%})"),
        ("off the plan", f"{boss.off_plan_instances} in {boss.off_plan_steps} steps"),
        ("report cost p50 / p99", f"{boss.report_us_p50:.0f} / {boss.report_us_p99:.0f} µs"),
        (
            "loss values dropped, not finite",
            f"{report.loss_reports.values_dropped}, {report.loss_reports.values_not_finite}",
        ),
    ]


def verdict(report: Report) -> str:
    """What the run shows about saving, and what it does not."""
    full = report.epochs * report.n
    if report.policy == "uniform" or not full:
        return "Every offered instance was trained; compare with another policy at the same seed."
    saved = 1.0 - report.boss.instances / full
    return (
        f"The Boss trained {saved:.1%} fewer instances than {report.epochs} full epochs. Whether that costs accuracy "
        f"shows only beside the same run with --policy uniform."
    )
