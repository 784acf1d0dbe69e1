"""What a rank says of itself while it trains, for whoever looks on from another thread; it costs the loop nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from boss.feed import Feed
from protocol.role_statistics import BossStatistics


def statistics_of(feed: Feed) -> BossStatistics:
    """A rank at this moment. From any thread; a figure that changes meanwhile is the old one or the new one.

    Raises RuntimeError where the training thread reports at that very moment: look again.
    """
    figures = feed.figures()
    latest, result = feed._reporter.latest, feed._line.latest_result
    losses = latest.losses[np.isfinite(latest.losses)] if latest is not None else np.empty(0, dtype=np.float32)
    sent = ("reports_sent", "values_dropped", "values_not_finite")
    whole_ones = ("instances", "off_plan_steps", "gradients_dropped", *sent)
    times = (
        "wall_s",
        "exposed_wait_s",
        "startup_wait_s",
        "evaluation_s",
        "checkpoint_s",
        "report_us_p50",
        "report_us_p99",
    )
    counts: dict[str, Any] = {name: int(figures[name]) for name in whole_ones}
    seconds: dict[str, Any] = {name: figures[name] for name in times}
    return BossStatistics(
        rank=feed.rank,
        is_connected=feed.is_connected,
        steps=feed.steps,
        progress=feed._plan.progress,
        loss=float(losses.mean()) if len(losses) else None,
        keep_probability=float(latest.batch.keep_probabilities.mean()) if latest is not None else None,
        staleness_steps=latest.batch.staleness if latest is not None else None,
        evaluation=result.metric_value if result is not None else None,
        **counts,
        **seconds,
    )


def turned_at(feed: Feed) -> float:
    """When the feed's I/O thread has turned last, by the monotonic clock."""
    return feed._line._client.polled_at
