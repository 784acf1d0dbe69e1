"""What the broker publishes about a run, twice a second, on its statistics socket. Best effort."""

from __future__ import annotations

import msgspec

MOST_HISTORY = 500
"""Evaluations in ``RunStatistics.metric_history``: the last ones."""


class PeerStatistics(msgspec.Struct, kw_only=True):
    """One connected role."""

    name: str
    role: str
    silent_s: float
    leases: int = 0
    backlog_records: int = 0  # loss records that an Assistant has not been sent
    learned_through: int = -1
    windows: int = 0
    lift: float = 0.0
    lift_error: float = 0.0
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    previews: bool = False  # whether it answers Preview
    credits: int = 0  # a Boss: batches granted beyond those pulled; an Assistant: windows that it takes at once
    offered: int = 0  # instances that an Assistant has judged in time
    kept: int = 0  # of them


class RunStatistics(msgspec.Struct, kw_only=True):
    """The run at one moment. Counts are totals since the run began."""

    run_id: str = ""
    policy: str = ""
    epoch: int = 0
    epochs: int = 0
    boss_budget: int = 0
    n: int = 0
    progress: float = 0.0
    next_step: int = 0
    trained_steps: int = 0
    instances_trained: int = 0
    offered: int = 0
    kept: int = 0
    unfiltered: int = 0
    epoch_offered: int = 0
    epoch_kept: int = 0
    last_epoch_offered: int = 0  # of the epoch before that one
    last_epoch_kept: int = 0
    stock_instances: int = 0
    leased_windows: int = 0
    ready_batches: int = 0  # at the Boss, not pulled yet
    staleness_p50: float | None = None
    staleness_p99: float | None = None
    staleness_max: int | None = None
    staleness_bound: int = 0
    tokens: int | None = None  # in batches that were cut by tokens, flushes left out; None where none are
    padded_tokens: int | None = None  # the same with padding
    flushed_steps: int | None = None  # cut out of turn, since a selection was near the staleness bound
    values_dropped: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    refused_from: dict[str, int] = msgspec.field(default_factory=dict)
    metric_name: str = ""
    metric_value: float | None = None
    metric_history: list[tuple[int, float]] = msgspec.field(default_factory=list)  # Boss passes, value; newest last
    exposed_wait_s: float = 0.0
    wall_s: float = 0.0
    ended: str = ""
    broker_cpu_percent: float = 0.0  # of one core, since the statistics before
    broker_rss_bytes: int = 0
    preview_port: int = 0  # where the page asks for instances, at the host of this socket; 0 for nowhere
    peers: list[PeerStatistics] = msgspec.field(default_factory=list)


def encode_statistics(statistics: RunStatistics) -> bytes:
    """To msgpack."""
    return msgspec.msgpack.encode(statistics)


def decode_statistics(raw: bytes) -> RunStatistics:
    """From msgpack; raises msgspec.ValidationError."""
    return msgspec.msgpack.decode(raw, type=RunStatistics)
