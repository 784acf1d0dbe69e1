"""What an Assistant says of itself, for whoever looks on from another thread; it costs its loop nothing."""

from __future__ import annotations

from assistant.worker import Assistant
from protocol.role_statistics import AssistantStatistics


def statistics_of(assistant: Assistant) -> AssistantStatistics | None:
    """At this moment; None before it has joined a run. From any thread."""
    core = assistant.core
    if core is None:
        return None
    lift, error = core.policy.lift
    return AssistantStatistics(
        name=assistant.settings.name,
        is_connected=assistant.client.is_open,
        learned_through=core.learned_through,
        waiting_windows=len(core.windows),
        waiting_records=len(core.records),
        instances_scored=int(core.figures.get("instances_scored", 0)),
        instances_kept=int(core.figures.get("instances_kept", 0)),
        instances_learned=int(core.figures.get("instances_learned", 0)),
        lift=lift,
        lift_error=error,
    )
