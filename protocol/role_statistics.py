"""What a Boss or an Assistant says of itself to who asks its own port, or draws its curves."""

from __future__ import annotations

import msgspec


class BossStatistics(msgspec.Struct, kw_only=True):
    """One rank at this moment. Counts are its own, over its restarts from checkpoints where the report's are."""

    rank: int = 0
    is_connected: bool = False  # whether the broker answers
    steps: int = 0
    instances: int = 0  # of all ranks
    progress: float = 0.0
    loss: float | None = None  # mean of the latest step's finite losses, this rank's
    keep_probability: float | None = None  # mean π of the same
    staleness_steps: int | None = None  # of the latest step's batch; none where it was unfiltered
    evaluation: float | None = None  # the latest, in the metric's own unit; rank 0 has it
    wall_s: float = 0.0
    exposed_wait_s: float = 0.0
    startup_wait_s: float = 0.0
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    reports_sent: int = 0
    off_plan_steps: int = 0
    values_dropped: int = 0
    values_not_finite: int = 0
    gradients_dropped: int = 0
    report_us_p50: float = 0.0
    report_us_p99: float = 0.0


class AssistantStatistics(msgspec.Struct, kw_only=True):
    """One Assistant at this moment; counts are of this process."""

    name: str = ""
    is_connected: bool = False  # whether the broker answers
    learned_through: int = -1  # last step whose losses it has learned
    waiting_windows: int = 0  # leased, not scored yet
    waiting_records: int = 0  # received, not learned yet
    instances_scored: int = 0
    instances_kept: int = 0  # of the scored
    instances_learned: int = 0
    lift: float = 0.0
    lift_error: float = 0.0
