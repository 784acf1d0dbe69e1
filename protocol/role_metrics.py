"""Every metric that a Boss's or an Assistant's own port has: what the process itself says, not what the broker knows.

Their names have ``own`` in them, so that no sum over a job counts a figure twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from protocol.metrics import Metric, Sample

Kind = Literal["gauge", "counter"]


def _reader(source: str, field: str, scale: float = 1.0) -> Callable[[Any], Iterator[Sample]]:
    """A field of a role's statistics, labelled by another; no sample where it is None."""

    def read(figures: Any) -> Iterator[Sample]:
        value = getattr(figures, field)
        if value is not None:
            yield (str(getattr(figures, source)),), float(value) * scale

    return read


def _boss(kind: Kind, name: str, field: str, meaning: str, *, scale: float = 1.0) -> Metric:
    return Metric(
        name=f"autoassist_boss_own_{name}",
        kind=kind,
        help=meaning,
        fields=("BossStatistics.rank", f"BossStatistics.{field}"),
        read=_reader("rank", field, scale),
        labels=("rank",),
    )


def _assistant(kind: Kind, name: str, field: str, meaning: str) -> Metric:
    return Metric(
        name=f"autoassist_assistant_own_{name}",
        kind=kind,
        help=meaning,
        fields=("AssistantStatistics.name", f"AssistantStatistics.{field}"),
        read=_reader("name", field),
        labels=("peer",),
    )


BOSS_METRICS: tuple[Metric, ...] = (
    _boss("gauge", "connected", "is_connected", "1 while the broker answers this rank, else 0."),
    _boss("counter", "steps_total", "steps", "Steps that this rank has trained, those before a resume too."),
    _boss("counter", "instances_total", "instances", "Instances that all ranks have trained, as this one counts."),
    _boss("gauge", "progress_ratio", "progress", "Share of the budget that is trained, 0 to 1."),
    _boss("gauge", "loss", "loss", "Mean of the latest step's finite losses, unweighted, in the loss's unit."),
    _boss("gauge", "keep_probability_ratio", "keep_probability", "Mean π of the latest step's instances."),
    _boss("gauge", "staleness_steps", "staleness_steps", "Of the latest step's batch; none where it was unfiltered."),
    _boss("gauge", "evaluation", "evaluation", "Latest evaluation, in the metric's unit; rank 0 alone has it."),
    _boss("counter", "wall_seconds_total", "wall_s", "Time since its first batch, evaluation left out."),
    _boss("counter", "exposed_wait_seconds_total", "exposed_wait_s", "Time in which it had nothing to train on."),
    _boss("counter", "startup_wait_seconds_total", "startup_wait_s", "Time until its first batch came."),
    _boss("counter", "evaluation_seconds_total", "evaluation_s", "Time in evaluation."),
    _boss("counter", "checkpoint_seconds_total", "checkpoint_s", "Time in taking checkpoints."),
    _boss("counter", "sent_reports_total", "reports_sent", "Loss reports that it has sent."),
    _boss("counter", "off_plan_steps_total", "off_plan_steps", "Steps that it drew itself, while no batch came."),
    _boss("counter", "dropped_loss_values_total", "values_dropped", "Losses that the full ring of reports dropped."),
    _boss("counter", "loss_values_not_finite_total", "values_not_finite", "Losses that were NaN or infinite."),
    _boss("counter", "dropped_gradients_total", "gradients_dropped", "Steps left out: a gradient that was not finite."),
    _boss("gauge", "report_median_seconds", "report_us_p50", "What one report costs the training thread.", scale=1e-6),
    _boss("gauge", "report_p99_seconds", "report_us_p99", "The same: the 99th percentile.", scale=1e-6),
)
ASSISTANT_METRICS: tuple[Metric, ...] = (
    _assistant("gauge", "connected", "is_connected", "1 while the broker answers this Assistant, else 0."),
    _assistant("gauge", "learned_through_step", "learned_through", "Last step that it has learned from; -1 for none."),
    _assistant("gauge", "waiting_windows", "waiting_windows", "Windows that it holds and has not scored yet."),
    _assistant("gauge", "waiting_records", "waiting_records", "Loss records that it has and has not learned yet."),
    _assistant("counter", "scored_instances_total", "instances_scored", "Instances that this process has scored."),
    _assistant("counter", "kept_instances_total", "instances_kept", "Instances of the scored that it has kept."),
    _assistant("counter", "learned_instances_total", "instances_learned", "Losses that this process has learned."),
    _assistant("gauge", "lift", "lift", "Its lift, see autoassist_assistant_lift, without the broker's delay."),
    _assistant("gauge", "lift_error", "lift_error", "Standard error of the lift."),
)
