"""The instances of a step that the Boss draws by itself while no batch comes.

A function of the run's settings and the step's number among the off-plan steps: all ranks draw the same step, and the
broker knows what it was, whoever tells of it first.
"""

from __future__ import annotations

import numpy as np

from protocol.arrays import I64
from protocol.settings import RunSettings

OFF_PLAN_STREAM = 2
"""Keeps these numbers apart from those of the epoch order and of the drawing, which use the same seed."""


def draw_off_plan(settings: RunSettings, n: int, number: int) -> I64:
    """IDs of the off-plan step ``number``, all ranks': distinct, uniform over all ``n`` instances."""
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, number], counter=[0, 0, 0, OFF_PLAN_STREAM]))
    size = min(settings.step_instances, n)
    ids: I64 = np.empty(0, dtype=np.int64)
    while len(ids) < size:
        ids = np.concatenate([ids, rng.integers(0, n, size=2 * size)])
        _, first = np.unique(ids, return_index=True)
        ids = ids[np.sort(first)]
    return ids[:size]


def even_counts(total: int, ranks: int) -> list[int]:
    """``total`` instances for so many ranks, as even as can be; the first ranks have one more."""
    base, extra = divmod(total, ranks)
    return [base + (rank < extra) for rank in range(ranks)]
