"""Every metric that a run has for Prometheus: its name, what it means, and how it is read from the statistics.

The page of them, docs/METRICS.md, is made from here, and so is what the broker serves. Names follow Prometheus: the
unit at the end, ``_total`` for what only grows, ``_ratio`` for shares of one, ``_info`` for words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from protocol.statistics import RunStatistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the figure."""

STATES = ("waiting", "running", "finished", "stopped", "failed")
ROLES = ("assistant", "boss")

LEFT_OUT: dict[str, str] = {
    "RunStatistics.last_epoch_offered": "for the log's line at an epoch's end; the counters tell the same",
    "RunStatistics.last_epoch_kept": "for the log's line at an epoch's end; the counters tell the same",
    "RunStatistics.preview_port": "an address, for the page alone",
    "PeerStatistics.previews": "whom the page may ask, for the page alone",
    "RunStatistics.metric_history": "Prometheus keeps the history of autoassist_run_evaluation itself",
}
"""Fields of the statistics that no metric has, as ``Struct.field``, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric family."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    fields: tuple[str, ...]
    """What it is read from, as ``Struct.field``."""
    read: Callable[[Any], Iterator[Sample]]
    """Its samples; none while the figure is not known."""
    labels: tuple[str, ...] = ()


def exposition(metrics: Sequence[Metric], figures: Any, *, of_process: bool = False) -> bytes:
    """Metrics in Prometheus's text format; ``of_process`` adds this process's own, as every client library has them."""
    # Imported when first needed: a role that serves no metrics starts without it.
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Latest(Collector):
        def collect(self) -> Iterator[Family]:
            for metric in metrics:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = kind(metric.name, metric.help, labels=metric.labels)
                for labels, value in metric.read(figures):
                    family.add_metric(labels, value)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Latest())
    if of_process:
        ProcessCollector(registry=registry)
    return generate_latest(registry)


def _of_run(kind: Literal["gauge", "counter"], name: str, field: str, meaning: str) -> Metric:
    """A field of the run as it is; no sample where it is None."""

    def read(run: RunStatistics) -> Iterator[Sample]:
        value = getattr(run, field)
        if value is not None:
            yield (), float(value)

    return Metric(name=name, kind=kind, help=meaning, fields=(f"RunStatistics.{field}",), read=read)


def _gauge(name: str, field: str, meaning: str) -> Metric:
    return _of_run("gauge", name, field, meaning)


def _counter(name: str, field: str, meaning: str) -> Metric:
    return _of_run("counter", name, field, meaning)


def _ratio(name: str, part: str, whole: str, meaning: str) -> Metric:
    """One field of the run as a share of another; no sample while there is nothing to share."""

    def read(run: RunStatistics) -> Iterator[Sample]:
        if getattr(run, whole):
            yield (), getattr(run, part) / getattr(run, whole)

    fields = (f"RunStatistics.{part}", f"RunStatistics.{whole}")
    return Metric(name=name, kind="gauge", help=meaning, fields=fields, read=read)


def _by(label: str, name: str, field: str, meaning: str) -> Metric:
    """A field of the run that counts by cause or sender."""

    def read(run: RunStatistics) -> Iterator[Sample]:
        for key, count in getattr(run, field).items():
            yield (key,), float(count)

    fields = (f"RunStatistics.{field}",)
    return Metric(name=name, kind="counter", help=meaning, fields=fields, read=read, labels=(label,))


def _of_peers(name: str, field: str, meaning: str, scale: float = 1.0) -> Metric:
    """A field of every role that is connected."""

    def read(run: RunStatistics) -> Iterator[Sample]:
        for peer in run.peers:
            yield (peer.name, peer.role), getattr(peer, field) * scale

    fields = ("RunStatistics.peers", "PeerStatistics.name", "PeerStatistics.role", f"PeerStatistics.{field}")
    return Metric(name=name, kind="gauge", help=meaning, fields=fields, read=read, labels=("peer", "role"))


def _of_assistants(kind: Literal["gauge", "counter"], name: str, field: str, meaning: str) -> Metric:
    """A field that only an Assistant has."""

    def read(run: RunStatistics) -> Iterator[Sample]:
        for peer in run.peers:
            if peer.role == "assistant":
                yield (peer.name,), float(getattr(peer, field))

    fields = ("RunStatistics.peers", "PeerStatistics.name", "PeerStatistics.role", f"PeerStatistics.{field}")
    return Metric(name=name, kind=kind, help=meaning, fields=fields, read=read, labels=("peer",))


def _info(run: RunStatistics) -> Iterator[Sample]:
    yield (run.run_id, run.policy), 1.0


def _states(run: RunStatistics) -> Iterator[Sample]:
    now = run.ended or ("running" if run.policy else "waiting")
    for state in STATES:
        yield (state,), float(state == now)


def _value(run: RunStatistics) -> Iterator[Sample]:
    if run.metric_value is not None:
        yield (run.metric_name,), run.metric_value


def _padding(run: RunStatistics) -> Iterator[Sample]:
    if run.tokens is not None and run.padded_tokens:
        yield (), 1.0 - run.tokens / run.padded_tokens


def _count(run: RunStatistics) -> Iterator[Sample]:
    for role in ROLES:
        yield (role,), float(sum(peer.role == role for peer in run.peers))


METRICS: tuple[Metric, ...] = (
    Metric(
        name="autoassist_run_info",
        kind="gauge",
        help="Always 1; the labels say which run it is, and its policy (empty before a Boss has come).",
        fields=("RunStatistics.run_id", "RunStatistics.policy"),
        read=_info,
        labels=("run_id", "policy"),
    ),
    Metric(
        name="autoassist_run_state",
        kind="gauge",
        help="1 for the state that the run is in, 0 for the others: " + ", ".join(STATES) + ".",
        fields=("RunStatistics.ended", "RunStatistics.policy"),
        read=_states,
        labels=("state",),
    ),
    _gauge("autoassist_run_progress_ratio", "progress", "Share of the budget that is cut into batches, 0 to 1."),
    _gauge("autoassist_run_epoch", "epoch", "Epoch that batches are cut from; the first is 0."),
    _gauge("autoassist_run_budget_epochs", "epochs", "Epochs of the run; 0 where the budget is in instances."),
    _gauge("autoassist_run_budget_instances", "boss_budget", "Boss passes of the run; 0 where it is in epochs."),
    _gauge("autoassist_run_dataset_instances", "n", "Instances in the data set."),
    _gauge("autoassist_run_next_step", "next_step", "Step that the broker plans next."),
    Metric(
        name="autoassist_run_evaluation",
        kind="gauge",
        help="Latest evaluation, by the name that the workload gives it.",
        fields=("RunStatistics.metric_name", "RunStatistics.metric_value"),
        read=_value,
        labels=("metric",),
    ),
    _counter("autoassist_boss_steps_total", "trained_steps", "Steps that the Boss has trained and reported."),
    _counter("autoassist_boss_instances_total", "instances_trained", "Instances that the Boss has trained: passes."),
    _gauge(
        "autoassist_boss_ready_batches",
        "ready_batches",
        "Credits in use: planned batches that lie ready at the Boss; 0 for long means that it waits.",
    ),
    _counter(
        "autoassist_boss_exposed_wait_seconds_total",
        "exposed_wait_s",
        "Time in which the Boss had nothing to do; told after each epoch.",
    ),
    _counter("autoassist_boss_wall_seconds_total", "wall_s", "The Boss's time in all; told after each epoch."),
    _ratio(
        "autoassist_boss_exposed_wait_ratio",
        "exposed_wait_s",
        "wall_s",
        "Share of the Boss's time in which it had nothing to do; none before the first epoch's end.",
    ),
    _counter("autoassist_selection_offered_instances_total", "offered", "Instances offered, kept or left out."),
    _counter("autoassist_selection_kept_instances_total", "kept", "Instances kept, unfiltered ones among them."),
    _counter("autoassist_selection_unfiltered_instances_total", "unfiltered", "Instances that no Assistant judged."),
    _ratio(
        "autoassist_selection_unfiltered_ratio",
        "unfiltered",
        "offered",
        "Share of what was offered that no Assistant judged, over the whole run.",
    ),
    _ratio(
        "autoassist_selection_epoch_kept_ratio",
        "epoch_kept",
        "epoch_offered",
        "Share kept of what was offered in this epoch.",
    ),
    _gauge("autoassist_stock_instances", "stock_instances", "Kept instances that wait to be cut into batches."),
    _gauge("autoassist_leased_windows", "leased_windows", "Windows that Assistants hold."),
    _gauge(
        "autoassist_staleness_median_steps",
        "staleness_p50",
        "Steps between the losses that a selection knew and its batch: the median over the run.",
    ),
    _gauge("autoassist_staleness_p99_steps", "staleness_p99", "The same: what 99 % of the batches do not exceed."),
    _gauge("autoassist_staleness_max_steps", "staleness_max", "The same: the greatest of the run."),
    _gauge("autoassist_staleness_bound_steps", "staleness_bound", "The same: what no selection may exceed."),
    _counter("autoassist_batch_tokens_total", "tokens", "Tokens in batches that were cut by them, flushes left out."),
    _counter("autoassist_batch_padded_tokens_total", "padded_tokens", "The same with padding: rows times the longest."),
    Metric(
        name="autoassist_batch_padding_ratio",
        kind="gauge",
        help="Share of those that is padding; none where batches are not cut by tokens.",
        fields=("RunStatistics.tokens", "RunStatistics.padded_tokens"),
        read=_padding,
    ),
    _counter(
        "autoassist_flushed_steps_total",
        "flushed_steps",
        "Steps cut out of turn, since a selection was near the staleness bound.",
    ),
    _counter(
        "autoassist_loss_values_dropped_total",
        "values_dropped",
        "Losses that never came, since the Boss's ring of reports was full.",
    ),
    _by("cause", "autoassist_refused_inputs_total", "refused", "Input that the broker refused, by cause."),
    _by(
        "sender",
        "autoassist_refused_inputs_by_sender_total",
        "refused_from",
        "The same by the role that it came from; strangers are those who have said no Hello.",
    ),
    Metric(
        name="autoassist_broker_cpu_ratio",
        kind="gauge",
        help="CPU that the broker uses; 1 is one core.",
        fields=("RunStatistics.broker_cpu_percent",),
        read=lambda run: iter([((), run.broker_cpu_percent * 0.01)]),
    ),
    _gauge("autoassist_broker_resident_memory_bytes", "broker_rss_bytes", "Memory that the broker's process holds."),
    Metric(
        name="autoassist_peers",
        kind="gauge",
        help="Roles that are connected; who is silent for three heartbeats is not.",
        fields=("RunStatistics.peers", "PeerStatistics.role"),
        read=_count,
        labels=("role",),
    ),
    _of_peers("autoassist_peer_silent_seconds", "silent_s", "Age of the last word of a role."),
    _of_peers("autoassist_peer_cpu_ratio", "cpu_percent", "CPU that a role uses; 1 is one core.", scale=0.01),
    _of_peers(
        "autoassist_peer_resident_memory_bytes",
        "rss_bytes",
        "Memory that a role's process holds, with that of one that looks ahead.",
    ),
    _of_peers(
        "autoassist_peer_credits",
        "credits",
        "Batches that a Boss has granted beyond those it has pulled; windows that an Assistant takes at once.",
    ),
    _of_assistants("gauge", "autoassist_assistant_leased_windows", "leases", "Windows that this Assistant holds."),
    _of_assistants(
        "gauge",
        "autoassist_assistant_backlog_records",
        "backlog_records",
        "Loss records that this Assistant has not been sent.",
    ),
    _of_assistants(
        "gauge",
        "autoassist_assistant_learned_through_step",
        "learned_through",
        "Last step whose losses this Assistant has learned from; -1 for none.",
    ),
    _of_assistants("counter", "autoassist_assistant_windows_total", "windows", "Windows that it has judged in time."),
    _of_assistants(
        "counter",
        "autoassist_assistant_offered_instances_total",
        "offered",
        "Instances that it has judged in time.",
    ),
    _of_assistants("counter", "autoassist_assistant_kept_instances_total", "kept", "What it has kept of them."),
    _of_assistants(
        "gauge",
        "autoassist_assistant_lift",
        "lift",
        "Mean loss of what it would keep less that of what it would leave out, in the loss's unit.",
    ),
    _of_assistants("gauge", "autoassist_assistant_lift_error", "lift_error", "Standard error of the lift."),
)
