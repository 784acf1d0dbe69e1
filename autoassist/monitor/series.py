"""What the page draws: each chart, and how its curves are read from two statistics in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoassist.figures import Pair, Read, field, of_role, rate, share


@dataclass(frozen=True)
class Series:
    """One curve."""

    label: str
    read: Read
    limit: bool = False
    """Whether it is a bound that the others shall stay below."""


@dataclass(frozen=True)
class Chart:
    """One picture; ``form`` says how its values are written: as counts, shares of one, or plain numbers."""

    name: str
    title: str
    form: str
    meaning: str
    series: tuple[Series, ...]


def _lift(pair: Pair) -> float | None:
    """Mean over the Assistants that have one."""
    found = [p.lift for p in pair.now.peers if p.role == "assistant" and p.lift_error > 0.0]
    return sum(found) / len(found) if found else None


def _lift_error(pair: Pair) -> float | None:
    """What the lift must exceed before anything is left out: three standard errors, the greatest of them."""
    found = [p.lift_error for p in pair.now.peers if p.role == "assistant" and p.lift_error > 0.0]
    return 3.0 * max(found) if found else None


def _refused(pair: Pair) -> float | None:
    return float(sum(pair.now.refused.values()))


CHARTS = (
    Chart(
        "steps",
        "Steps a second",
        "number",
        "Steps that the Boss has trained and reported.",
        (Series("steps/s", rate("trained_steps")),),
    ),
    Chart(
        "instances",
        "Instances a second",
        "number",
        "Offered, kept of them, and trained by the Boss. The gap between offered and kept is what is saved.",
        (
            Series("offered/s", rate("offered")),
            Series("kept/s", rate("kept")),
            Series("trained/s", rate("instances_trained")),
        ),
    ),
    Chart(
        "queues",
        "Queues",
        "count",
        "Batches that lie ready at the Boss: 0 for long means that it waits. Windows that Assistants hold.",
        (
            Series("batches ready at the Boss", field("ready_batches")),
            Series("windows leased", field("leased_windows")),
        ),
    ),
    Chart(
        "stock",
        "Stock",
        "count",
        "Kept instances that wait at the broker to be cut into batches.",
        (Series("instances in stock", field("stock_instances")),),
    ),
    Chart(
        "kept",
        "Kept",
        "share",
        "Share kept of what was offered in this epoch; share of all that was offered that no Assistant judged.",
        (
            Series("kept, this epoch", share("epoch_kept", "epoch_offered")),
            Series("unfiltered, whole run", share("unfiltered", "offered")),
        ),
    ),
    Chart(
        "wait",
        "Exposed wait",
        "share",
        "Share of the Boss's time in which it had nothing to do; told after each epoch. It should be zero.",
        (Series("exposed wait", share("exposed_wait_s", "wall_s")),),
    ),
    Chart(
        "staleness",
        "Staleness, steps",
        "count",
        "Steps between the losses that a selection knew and its batch, over the run. None may exceed the bound.",
        (
            Series("p50", field("staleness_p50")),
            Series("p99", field("staleness_p99")),
            Series("greatest", field("staleness_max")),
            Series("bound", field("staleness_bound"), limit=True),
        ),
    ),
    Chart(
        "lift",
        "Lift",
        "number",
        "Mean loss of what the Assistants would keep less that of what they would leave out. They leave out only while "
        "it is above three standard errors.",
        (Series("lift", _lift), Series("three standard errors", _lift_error, limit=True)),
    ),
    Chart(
        "dropped",
        "Dropped and refused",
        "count",
        "Losses that never came, since the Boss's ring of reports was full; input that the broker refused.",
        (Series("loss values dropped", field("values_dropped")), Series("inputs refused", _refused)),
    ),
    Chart(
        "cpu",
        "CPU",
        "number",
        "Cores that the roles use.",
        (
            Series("Assistants, cores", of_role("assistant", "cpu_percent", 0.01)),
            Series("Boss, cores", of_role("boss", "cpu_percent", 0.01)),
            Series("broker, cores", field("broker_cpu_percent", 0.01)),
        ),
    ),
    Chart(
        "memory",
        "Memory",
        "number",
        "Resident memory of the roles.",
        (
            Series("Assistants, MB", of_role("assistant", "rss_bytes", 1e-6)),
            Series("Boss, MB", of_role("boss", "rss_bytes", 1e-6)),
            Series("broker, MB", field("broker_rss_bytes", 1e-6)),
        ),
    ),
)


def values(pair: Pair) -> list[float | None]:
    """A value for each curve of ``CHARTS`` in order; None where it is not known, or not finite."""
    found = (series.read(pair) for chart in CHARTS for series in chart.series)
    return [value if value is not None and math.isfinite(value) else None for value in found]


def description(charts: Sequence[Chart] = CHARTS) -> list[dict[str, object]]:
    """The charts for the browser."""
    return [
        {
            "name": chart.name,
            "title": chart.title,
            "form": chart.form,
            "meaning": chart.meaning,
            "series": [{"label": series.label, "limit": series.limit} for series in chart.series],
        }
        for chart in charts
    ]
