"""The instances of a step that the Boss draws by itself while no batch comes.

A function of the run's settings and the step's number among the off-plan steps: all ranks draw the same step, and the
broker knows what it was, whoever tells of it first.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from protocol.arrays import I64
from protocol.settings import RunSettings
from protocol.token_batches import I32, divide, for_all_ranks

OFF_PLAN_STREAM = 2
"""Keeps these numbers apart from those of the epoch order and of the drawing, which use the same seed."""


def draw_off_plan(settings: RunSettings, n: int, number: int, lengths: I32 | None = None) -> tuple[I64, list[int]]:
    """IDs of the off-plan step ``number``, rank by rank, and how many each has: distinct, from all ``n`` instances.

    With ``lengths`` a step of the token budget, out of as many as a pool holds; else uniform.
    """
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, number], counter=[0, 0, 0, OFF_PLAN_STREAM]))
    if lengths is None:
        ids = _distinct(rng, n, min(settings.step_instances, n))
        return ids, even_counts(len(ids), settings.world_size)
    ids = _distinct(rng, n, min(settings.step_instances * settings.pool_depth, n))
    ids = ids[np.argsort(lengths[ids], kind="stable")]
    stretches = divide(lengths[ids], settings, from_longest=True)
    full = [stretch for stretch in stretches if stretch.is_full] or stretches
    cuts = for_all_ranks(full[rng.integers(len(full))].cuts, settings.world_size)
    counts = [stop - start for start, stop in pairwise(cuts)]
    return ids[cuts[0] : cuts[-1]], counts + [0] * (settings.world_size - len(counts))


def _distinct(rng: np.random.Generator, n: int, size: int) -> I64:
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
