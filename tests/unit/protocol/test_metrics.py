"""The metrics say what the statistics say: all of it, under names as Prometheus wants them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from protocol.metrics import LEFT_OUT, METRICS, STATES
from protocol.statistics import PeerStatistics, RunStatistics

UNITS = ("seconds", "bytes", "ratio", "steps", "instances", "windows", "batches", "records", "epochs")
WITHOUT_UNIT = {
    "autoassist_peer_credits": "batches, or windows",
    "autoassist_run_state": "a state",
    "autoassist_run_epoch": "a number in a row",
    "autoassist_run_next_step": "a number in a row",
    "autoassist_assistant_learned_through_step": "a number in a row",
    "autoassist_run_evaluation": "the workload's own unit",
    "autoassist_assistant_lift": "the loss's unit",
    "autoassist_assistant_lift_error": "the loss's unit",
    "autoassist_peers": "a count of the very thing",
}
ASSISTANT: dict[str, Any] = {
    **{"name": "assistant-0", "role": "assistant", "silent_s": 0.25, "leases": 3, "backlog_records": 17},
    **{"learned_through": 90, "windows": 55, "lift": 0.5, "lift_error": 0.125, "cpu_percent": 50.0, "rss_bytes": 4096},
    **{"credits": 4, "offered": 256, "kept": 64},
}
RUN: dict[str, Any] = {
    **{"run_id": "r1", "policy": "autoassist", "epoch": 1, "epochs": 3, "boss_budget": 7, "n": 1000, "progress": 0.5},
    **{"next_step": 108, "trained_steps": 100, "instances_trained": 6400, "offered": 9000, "kept": 6800},
    **{"unfiltered": 900, "epoch_offered": 800, "epoch_kept": 200, "stock_instances": 300, "leased_windows": 4},
    **{"ready_batches": 6, "staleness_p50": 12.0, "staleness_p99": 31.0, "staleness_max": 40},
    **{"staleness_bound": 96, "values_dropped": 5, "tokens": 900, "padded_tokens": 1000, "flushed_steps": 3},
    **{"refused": {"bad_message": 2}, "refused_from": {"strangers": 2}, "metric_name": "accuracy", "metric_value": 0.9},
    **{"exposed_wait_s": 0.5, "wall_s": 50.0, "ended": "", "broker_cpu_percent": 25.0},
    "broker_rss_bytes": 8192,
}
OTHERS: dict[type, Any] = {str: "stopped", int: 77, float: 0.75, dict: {"another": 4}}


def run(**changes: Any) -> RunStatistics:
    peers = [PeerStatistics(**ASSISTANT), PeerStatistics(name="boss-0", role="boss", silent_s=0.5, cpu_percent=100.0)]
    return RunStatistics(**{"peers": peers, **RUN, **changes})


def figures(statistics: RunStatistics) -> dict[str, dict[tuple[str, ...], float]]:
    return {metric.name: dict(metric.read(statistics)) for metric in METRICS}


def test_every_field_of_the_statistics_is_in_a_metric_or_left_out_with_a_reason() -> None:
    fields = {f"{s.__name__}.{field}" for s in (RunStatistics, PeerStatistics) for field in s.__struct_fields__}
    read = {field for metric in METRICS for field in metric.fields}
    assert read | set(LEFT_OUT) == fields
    assert not read & set(LEFT_OUT) and all(LEFT_OUT.values())


@pytest.mark.parametrize("field", sorted({f for metric in METRICS for f in metric.fields} - {"RunStatistics.peers"}))
def test_a_field_that_changes_changes_the_metrics_that_say_so_and_no_others(field: str) -> None:
    """A metric that named a field and read another would pass any test of names."""
    struct, _, name = field.partition(".")
    before = run()
    if struct == "RunStatistics":
        after = run(**{name: OTHERS[type(RUN[name])]})
    else:
        after = run(peers=[PeerStatistics(**{**ASSISTANT, name: OTHERS[type(ASSISTANT[name])]}), before.peers[1]])
    changed = {metric.name for metric in METRICS if dict(metric.read(before)) != dict(metric.read(after))}
    saying = {metric.name for metric in METRICS if field in metric.fields}
    if field in {"RunStatistics.policy", "PeerStatistics.role"}:  # which another name of leaves as it is
        assert changed & saying and not changed - saying
    else:
        assert changed == saying


def test_figures_are_what_the_statistics_say() -> None:
    found = figures(run())
    assert found["autoassist_run_info"] == {("r1", "autoassist"): 1}
    assert found["autoassist_run_state"] == {(s,): float(s == "running") for s in STATES}
    assert found["autoassist_boss_steps_total"] == {(): 100}
    assert found["autoassist_boss_exposed_wait_ratio"] == {(): 0.01}
    assert found["autoassist_selection_epoch_kept_ratio"] == {(): 0.25}
    assert found["autoassist_selection_unfiltered_ratio"] == {(): 0.1}
    assert found["autoassist_batch_padding_ratio"] == {(): pytest.approx(0.1)}
    assert found["autoassist_run_evaluation"] == {("accuracy",): 0.9}
    assert found["autoassist_refused_inputs_total"] == {("bad_message",): 2}
    assert found["autoassist_peers"] == {("assistant",): 1, ("boss",): 1}
    assert found["autoassist_peer_cpu_ratio"] == {("assistant-0", "assistant"): 0.5, ("boss-0", "boss"): 1.0}
    assert found["autoassist_assistant_lift"] == {("assistant-0",): 0.5}


def test_what_is_not_known_yet_has_no_sample() -> None:
    """A zero would be a lie, and would set off alerts."""
    found = figures(RunStatistics())
    silent = [
        *("autoassist_staleness_median_steps", "autoassist_staleness_max_steps", "autoassist_run_evaluation"),
        *("autoassist_boss_exposed_wait_ratio", "autoassist_selection_epoch_kept_ratio", "autoassist_peer_cpu_ratio"),
        *("autoassist_batch_padding_ratio", "autoassist_batch_tokens_total", "autoassist_flushed_steps_total"),
    ]
    assert not any(found[name] for name in silent)
    assert found["autoassist_run_state"][("waiting",)] == 1
    assert found["autoassist_peers"] == {("assistant",): 0, ("boss",): 0}


def test_a_run_that_is_over_says_how_it_ended() -> None:
    for ended in ("finished", "stopped", "failed"):
        states = figures(run(ended=ended))["autoassist_run_state"]
        assert [state for (state,), value in states.items() if value] == [ended]


def test_names_are_as_prometheus_wants_them() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"autoassist(_[a-z0-9]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)
        assert not set(metric.labels) & {"instance", "job"}, "these are Prometheus's own"
        base = metric.name.removesuffix("_total")
        with_unit = metric.kind == "counter" or base.endswith((*UNITS, "_info"))
        assert with_unit != (metric.name in WITHOUT_UNIT), metric.name


def test_every_sample_has_a_value_for_each_label() -> None:
    for metric in METRICS:
        assert metric.help.endswith(".")
        for labels, value in metric.read(run()):
            assert len(labels) == len(metric.labels) and isinstance(value, float), metric.name


def test_metrics_survive_the_wire() -> None:
    """What another process reads from the statistics socket has the same figures."""
    raw = msgspec.msgpack.encode(run())
    assert figures(msgspec.msgpack.decode(raw, type=RunStatistics)) == figures(run())
