"""Counts what nothing was left out of, by cause: the summary of a run that kept all says why from these."""

from __future__ import annotations

from broker.rows import WindowRow
from broker.state import State
from protocol.schedule import phase_of

PREFIX = "passed_whole_"
STALE = "stale"
GATE = "gate"


def count_whole(state: State, row: WindowRow, offered: int, reason: str) -> None:
    """A window of ``offered`` instances is decided, and not yet in stock; ``reason`` says why nobody has selected.

    What the plan would have passed anyway counts as the plan's, though no Assistant was there.
    """
    if not reason and (len(row.kept_ids) < offered or row.keep_probabilities.min() < 1.0):
        return
    cause = reason
    if reason != "uniform":
        progress = state.progress(row.window) if reason else row.progress
        phase = phase_of(state.settings, state.the_run.n, state.epoch_of(row.window), progress)
        cause = phase or reason or GATE
    state.count(PREFIX + cause, offered)
