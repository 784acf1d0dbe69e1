"""Reports and comparisons that nobody has run."""

from __future__ import annotations

from collections.abc import Sequence

from autoassist.compare_result import Cell, Comparison, Difference
from autoassist.compare_verdict import judge
from protocol.report import (
    BossReport,
    LossReportsReport,
    MetricReport,
    Report,
    SelectionReport,
    StalenessReport,
)
from protocol.settings import RunSettings

GAIN = Difference(value=0.08, low=0.07, high=0.09)


def report_of(
    policy: str,
    *,
    metric: float | None = 0.9,
    seed: int = 1,
    passes: int = 1000,
    kept_fraction: float = 1.0,
    status: str = "finished",
    n: int = 500,
    settings: RunSettings | None = None,
) -> Report:
    """A run's report."""
    return Report(
        status=status,
        run_id="made-up",
        workload="mine",
        policy=policy,
        seed=seed,
        epochs=0,
        boss_instances_budget=passes,
        world_size=1,
        dataset_id="mine:1",
        n=n,
        settings=(settings or RunSettings(policy=policy, boss_instances=passes, seed=seed)).as_dict(),
        boss=BossReport(
            steps=passes // 64,
            instances=passes,
            wall_s=passes / 100,
            train_s=passes / 100,
            exposed_wait_s=0.0,
            exposed_wait_fraction=0.0,
            startup_wait_s=1.0,
            evaluation_s=1.0,
            off_plan_steps=0,
            off_plan_instances=0,
            report_us_p50=1.0,
            report_us_p99=1.0,
        ),
        selection=SelectionReport(
            offered=round(passes / kept_fraction),
            kept=passes,
            kept_fraction=kept_fraction,
            unfiltered_fraction=0.0,
            staleness_steps=StalenessReport(p50=None, p99=None, max=None, bound=96),
            epochs=[],
            unfiltered_windows={},
            reopened_windows=0,
        ),
        loss_reports=LossReportsReport(sent=0, delivered=0, values_dropped=0, values_not_finite=0),
        metric=MetricReport(name="test_accuracy", value=metric, history=[]),
        assistants=[],
        refused_input={},
        versions={},
    )


def comparison_of(cells: Sequence[Cell], seeds: int = 3) -> Comparison:
    """With its verdict, without its runs."""
    return Comparison(
        workload="mine",
        model="",
        metric_name="test_accuracy",
        higher_is_better=True,
        n=1000,
        epochs=10,
        policies=list(dict.fromkeys(cell.policy for cell in cells)),
        budgets=sorted({cell.budget for cell in cells}, reverse=True),
        seeds=list(range(1, seeds + 1)),
        options=[],
        runs=[],
        cells=list(cells),
        uniform_gain=GAIN,
        verdict=judge(cells, GAIN, workload="mine", metric_name="test_accuracy", seeds=seeds),
    )
