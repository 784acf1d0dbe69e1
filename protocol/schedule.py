"""Where in a run everything passes by plan, whatever a policy says: in the warm-up, and in the anneal at its end."""

from __future__ import annotations

from typing import Literal

from protocol.settings import RunSettings

Phase = Literal["", "warmup", "anneal"]


def phase_of(settings: RunSettings, n: int, epoch: int, progress: float) -> Phase:
    """Of a window of ``epoch``, ``n`` instances each, that stands at ``progress`` (0 … 1) of the run; "" in between."""
    if _is_warming_up(settings, n, epoch, progress):
        return "warmup"
    return "" if progress <= 1.0 - settings.anneal_share else "anneal"


def _is_warming_up(settings: RunSettings, n: int, epoch: int, progress: float) -> bool:
    whole = int(settings.warmup)
    if epoch != whole or whole == settings.warmup:
        return epoch < whole
    # Within an epoch the run's progress tells; until then all has passed, so a pass is an offer.
    epochs = settings.epoch_budget or (settings.boss_instances or 0) / n
    return progress * epochs <= settings.warmup
