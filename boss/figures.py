"""What a feed says of itself: figures for the report, results of an evaluation."""

from __future__ import annotations

from typing import Any

from boss.clocks import Clocks
from boss.plan import BossPlan
from boss.reporter import Reporter
from protocol.message_base import MAX_TEXT
from protocol.messages import EpochResult
from protocol.settings import require


def figures_of(clocks: Clocks, plan: BossPlan, reporter: Reporter, *, instances: int, dropped: int) -> dict[str, float]:
    """A rank's own figures for the report; ``dropped`` counts steps without a finite gradient."""
    return {
        "wall_s": clocks.wall_s,
        "exposed_wait_s": clocks.exposed_wait_s,
        "startup_wait_s": clocks.startup_wait_s,
        "evaluation_s": clocks.evaluation_s,
        "checkpoint_s": clocks.checkpoint_s,
        "instances": float(instances),
        "reports_sent": float(reporter.sent),
        "off_plan_steps": float(plan.off_plan_steps),
        "values_dropped": float(reporter.values_dropped),
        "values_not_finite": float(reporter.values_not_finite),
        "gradients_dropped": float(dropped),
        "report_us_p50": reporter.timing_us(0.5),
        "report_us_p99": reporter.timing_us(0.99),
    }


def epoch_result(name: str, value: float, *, epoch: int, step: int, instances: int, clocks: Clocks) -> EpochResult:
    """What an evaluation after ``epoch`` gave; raises SettingError for a name that no broker would take."""
    require(len(name) <= MAX_TEXT, "metric name", name[:MAX_TEXT], f"{len(name)} characters; give {MAX_TEXT} at most")
    return EpochResult(
        epoch=epoch,
        step=step,
        metric_name=name,
        metric_value=float(value),
        boss_instances=instances,
        train_s=clocks.wall_s - clocks.exposed_wait_s,
        exposed_wait_s=clocks.exposed_wait_s,
        wall_s=clocks.wall_s,
    )


def state_of(clocks: Clocks, plan: BossPlan, *, instances: int, dropped: int, run_id: str) -> dict[str, Any]:
    """Where a feed stands with the last report, in plain numbers."""
    return {
        "step": plan.last_reported,
        "epochs_done": plan.epochs_done,
        "off_plan_steps": plan.off_plan_reported,
        "progress": plan.progress,
        "instances": instances,
        "gradients_dropped": dropped,
        "clocks": clocks.state_dict(),
        "run_id": run_id,
    }
