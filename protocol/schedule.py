"""Where in a run everything passes by plan, whatever a policy says: in the warm-up, and in the anneal at its end."""

from __future__ import annotations

from typing import Literal

from protocol.settings import RunSettings

Phase = Literal["", "warmup", "anneal"]


def phase_of(settings: RunSettings, n: int, epoch: int, progress: float) -> Phase:
    """Of a window of ``epoch``, ``n`` instances each, that stands at ``progress`` (0 … 1) of the run; "" in between.

    A window that lies in part within one of them is of it, so that neither is shorter than was asked for; where the
    run's length is given in Boss passes, that holds for the warm-up alone.
    """
    begins, ends = _stretch(settings, n, progress)
    whole = int(settings.warmup)
    # Behind whole epochs the run's progress tells; until then all has passed, so that a pass is an offer.
    if epoch < whole or (epoch == whole < settings.warmup and (begins < settings.warmup or ends <= settings.warmup)):
        return "warmup"
    epochs = settings.epoch_budget or (settings.boss_instances or 0) / n
    return "" if ends <= epochs * (1.0 - settings.anneal_share) else "anneal"


def _stretch(settings: RunSettings, n: int, progress: float) -> tuple[float, float]:
    """Where a window begins and ends, in epochs from the run's beginning.

    Where the run's length is given in epochs, ``progress`` counts windows, this one too, and the last one of an epoch
    may be short. Where it is given in Boss passes, ``progress`` is what was decided before the window.
    """
    if settings.epoch_budget is None:
        passed = progress * (settings.boss_instances or 0) / n
        return passed, passed
    windows = progress * settings.epoch_budget * -(-n // settings.window_instances)
    return _epochs_in(settings, n, round(windows) - 1), _epochs_in(settings, n, round(windows))


def _epochs_in(settings: RunSettings, n: int, windows: int) -> float:
    """What so many windows of the run's beginning are of epochs."""
    epochs, left = divmod(windows, -(-n // settings.window_instances))
    return epochs + min(left * settings.window_instances, n) / n
