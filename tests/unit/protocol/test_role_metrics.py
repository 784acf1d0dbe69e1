"""What a role's own port has is what its statistics say: all of it, each figure once, named as Prometheus wants it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from protocol.metrics import METRICS, Metric, exposition
from protocol.role_metrics import ASSISTANT_METRICS, BOSS_METRICS
from protocol.role_statistics import AssistantStatistics, BossStatistics
from tests.unit.protocol.test_metrics import UNITS

BOTH: list[tuple[Any, tuple[Metric, ...], str]] = [
    (BossStatistics, BOSS_METRICS, "rank"),
    (AssistantStatistics, ASSISTANT_METRICS, "name"),
]
WITHOUT_UNIT = {
    *("autoassist_boss_own_connected", "autoassist_boss_own_loss", "autoassist_assistant_own_connected"),
    *("autoassist_assistant_own_lift", "autoassist_assistant_own_lift_error"),
    *("autoassist_assistant_own_learned_through_step", "autoassist_boss_own_evaluation"),
}
"""A state, the loss's unit, a number in a row, the metric's unit."""


def filled(struct: Any) -> Any:
    """Another number in every field."""
    fields = struct.__struct_fields__
    return struct(**{field: "me" if field == "name" else i + 2 for i, field in enumerate(fields)})


@pytest.mark.parametrize(("struct", "metrics", "label"), BOTH)
def test_every_field_has_a_metric_that_says_its_value(struct: Any, metrics: tuple[Metric, ...], label: str) -> None:
    figures, said = filled(struct), {}
    for metric in metrics:
        source, field = metric.fields
        assert source == f"{struct.__name__}.{label}"
        ((labels, value),) = metric.read(figures)
        assert labels == (str(getattr(figures, label)),)
        scale = 1e-6 if "_us_" in field else 1.0
        assert value == pytest.approx(getattr(figures, field.partition(".")[2]) * scale), metric.name
        said[field] = metric.name
    assert set(said) == {f"{struct.__name__}.{field}" for field in struct.__struct_fields__ if field != label}


def test_what_is_not_known_has_no_sample() -> None:
    silent = {metric.name for metric in BOSS_METRICS if not list(metric.read(BossStatistics()))}
    unknown = ("loss", "keep_probability_ratio", "staleness_steps", "evaluation")
    assert silent == {f"autoassist_boss_own_{name}" for name in unknown}


def test_names_are_their_own_and_as_prometheus_wants_them() -> None:
    all_of_them = [*BOSS_METRICS, *ASSISTANT_METRICS]
    names = [metric.name for metric in all_of_them]
    assert len(set(names)) == len(names) and not set(names) & {metric.name for metric in METRICS}
    for metric in all_of_them:
        assert re.fullmatch(r"autoassist_(boss|assistant)_own(_[a-z0-9]+)+", metric.name) and metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        with_unit = metric.kind == "counter" or metric.name.endswith(UNITS)
        assert with_unit != (metric.name in WITHOUT_UNIT), metric.name


def test_the_process_own_figures_come_along() -> None:
    text = exposition(ASSISTANT_METRICS, AssistantStatistics(name="a"), of_process=True).decode()
    assert 'autoassist_assistant_own_connected{peer="a"} 0.0' in text
    assert "process_resident_memory_bytes" in text and "process_cpu_seconds_total" in text
    assert "process_" not in exposition(ASSISTANT_METRICS, AssistantStatistics(name="a")).decode()
