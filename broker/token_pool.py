"""The cutting of steps by a budget of tokens, out of a pool that is sorted by length. No I/O.

The **pool** is the head of the line, as many whole windows as make ``pool_depth`` steps. Sorted by length and divided
(``protocol.token_batches``) it gives steps of neighbours, one batch for each rank, which are cut in an order that the
seed decides. What is less than a step at its end is part of the next pool, which is divided from its other end: so
nothing is left over twice. Where the pool holds a selection that could become too stale before its turn, the step with
it comes first (a **flush**), underfull if need be. At an epoch's end the rest is cut, so no step spans two epochs.

Nothing here is state but two numbers of the run's row: up to which place of the line the pool reaches, and which pool
it is. What of a window is cut stands at the head of its kept IDs, as it does where batches are cut in order.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from broker.rows import WindowRow
from broker.state import State
from broker.stock import (
    add_step,
    drop_window,
    end_epoch,
    epoch_is_offered,
    is_last_epoch,
    remaining_budget,
    reopen_if_stale,
    segment_of,
)
from protocol.arrays import F32, I64
from protocol.messages import Segment
from protocol.token_batches import I32, Stretch, divide, for_all_ranks, padded_tokens

POOL_STREAM = 3
"""Keeps these numbers apart from those of the epoch order, the drawing, and the off-plan steps."""
ALL = 1 << 62
LAST_CHANCE = 2
"""Steps from which on what is too little for a step does not wait for the next pool."""


@dataclass(slots=True)
class Pool:
    """The pool as it stands before a step, in the line's order."""

    rows: list[WindowRow]
    starts: list[int]
    """Where each window's instances begin; one more for the end."""
    ids: I64
    by_length: I64
    """Positions in ``ids``, the shortest first."""
    stretches: list[Stretch]


def cut(state: State, most: int | None = None) -> int:
    """Cut every step that the Boss's credit (or ``most``) and the stock allow, and end the epochs that are used up.

    Returns the first step that is not cut.
    """
    run, most = state.the_run, state.may_cut if most is None else most
    while not run.cutting_done:
        left = remaining_budget(state)
        if left <= 0:
            end_epoch(state, last=True)
        elif state.line:
            if run.next_step > most or not _cut_step(state, left):
                break
        elif not epoch_is_offered(state):
            break
        else:
            end_epoch(state, last=is_last_epoch(state))
    return run.next_step


def first_step(state: State) -> int:
    """The first step that a window can serve which is decided next, whatever of the plan is cut already.

    Found by cutting all that is in stock, on paper: deterministic mode alone asks for it.
    """
    copied = copy.copy
    run = copied(state.the_run)
    run.counters, run.staleness_counts = dict(run.counters), dict(run.staleness_counts)
    paper = State(
        run=run,
        windows={window: copied(row) for window, row in state.windows.items() if row.state == "stocked"},
        epochs={epoch: copied(row) for epoch, row in state.epochs.items() if epoch >= run.cut_epoch},
        line=copied(state.line),
        ahead={epoch: list(windows) for epoch, windows in state.ahead.items()},
        lengths=state.lengths,
    )
    return cut(paper, most=ALL)


def _cut_step(state: State, left: int) -> bool:
    """Cut a step of at most ``left`` instances; False where the stock has none yet."""
    pool = _pool(state)
    chosen = _choose(state, pool)
    if chosen is None and _fill_pool(state, left):
        pool = _pool(state)
        chosen = _choose(state, pool)
    if chosen is None:
        is_rest = len(pool.rows) == len(state.line) and epoch_is_offered(state)
        if not is_rest and len(pool.ids) < left:
            return False
        chosen = pool.stretches[0], False
    stretch, is_flush = chosen
    cuts = sorted({min(cut, stretch.start + left) for cut in stretch.cuts})
    _take(state, pool, for_all_ranks(cuts, state.settings.world_size), is_flush=is_flush)
    return True


def _pool(state: State) -> Pool:
    """What is left of the pool; a window that is too stale for the next step is reopened first."""
    run, settings = state.the_run, state.settings
    assert state.lengths is not None
    rows = []
    for window in state.line:
        row = state.windows[window]
        if row.order > run.pool_order:
            break
        reopen_if_stale(state, row, run.next_step)
        rows.append(row)
    parts = [row.kept_ids[row.taken :] for row in rows]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
    lengths = state.lengths[ids]
    by_length = np.argsort(lengths, kind="stable")
    stretches = divide(lengths[by_length], settings, from_longest=_is_from_longest(run.pool_number))
    return Pool(rows, starts, ids, by_length, stretches)


def _is_from_longest(pool_number: int) -> bool:
    return pool_number % 2 == 0


def _fill_pool(state: State, left: int) -> bool:
    """Make a pool of what is left of the last one and the windows behind it; False where there are too few yet.

    ``left`` instances are enough too: the run ends with them.
    """
    run, wanted = state.the_run, state.settings.pool_depth * state.step_size
    inside = [window for window in state.line if state.windows[window].order <= run.pool_order]
    tokens, instances = state.waiting(inside), state.untaken(inside)
    for window in list(state.line)[len(inside) :]:
        if tokens >= wanted or instances >= left:
            break
        tokens, instances = tokens + state.waiting([window]), instances + state.untaken([window])
        inside.append(window)
    is_enough = tokens >= wanted or instances >= left or epoch_is_offered(state)
    newest = state.windows[inside[-1]].order
    if not is_enough or newest <= run.pool_order:
        return False
    run.pool_order, run.pool_number = newest, run.pool_number + 1
    run.pool_offered = max(run.pool_offered, *(_offered_up_to(state, window) for window in inside))
    state.touch_run()
    return True


def _choose(state: State, pool: Pool) -> tuple[Stretch, bool] | None:
    """The step that is cut next, and whether it is a flush; None where there is too little for one."""
    run, settings = state.the_run, state.settings
    if not pool.stretches:
        return None
    full = [stretch for stretch in pool.stretches if stretch.is_full]
    slack = _slack(state, pool)
    least = min(slack)
    is_urgent = least < len(pool.stretches)
    if not full:
        return (pool.stretches[0], True) if least < LAST_CHANCE else None
    if is_urgent:
        candidates = [s for s, steps in zip(pool.stretches, slack, strict=True) if steps == least]
        if least >= LAST_CHANCE:
            candidates = [s for s in candidates if s.is_full] or full
    else:
        candidates = full
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, run.next_step], counter=[0, 0, 0, POOL_STREAM]))
    return candidates[rng.integers(len(candidates))], is_urgent


def _slack(state: State, pool: Pool) -> list[int]:
    """Of each stretch: how many steps the most urgent selection in it may still wait."""
    run, bound = state.the_run, state.settings.staleness_bound
    never = 1 << 62
    of_row = [never if r.learned_through is None else r.learned_through + bound - run.next_step for r in pool.rows]
    slack = np.repeat(np.array(of_row, dtype=np.int64), np.diff(pool.starts))[pool.by_length]
    return [int(slack[stretch.start : stretch.stop].min()) for stretch in pool.stretches]


def _take(state: State, pool: Pool, cuts: list[int], *, is_flush: bool) -> None:
    """The next step is what lies between the cuts; each rank's part keeps to the line's order, so segments are few."""
    assert state.lengths is not None
    ids: list[I64] = []
    keep: list[F32] = []
    segments: list[Segment] = []
    kept = np.concatenate([row.keep_probabilities[row.taken :] for row in pool.rows])
    for start, stop in pairwise(cuts):
        places = np.sort(pool.by_length[start:stop])
        ids.append(pool.ids[places])
        keep.append(kept[places])
        bounds = np.searchsorted(places, pool.starts)
        segments += [segment_of(state, row, n) for row, n in zip(pool.rows, np.diff(bounds).tolist(), strict=True) if n]
    progress = _progress(state, pool, cuts[-1] - cuts[0])
    _mark_taken(state, pool, pool.by_length[cuts[0] : cuts[-1]])
    counts = [stop - start for start, stop in pairwise(cuts)]
    step_ids = np.concatenate(ids)
    _count(state, state.lengths[step_ids], counts, is_flush=is_flush)
    rank_counts = counts if len(counts) == state.settings.world_size else None
    add_step(state, step_ids, np.concatenate(keep), segments, progress=progress, rank_counts=rank_counts)


def _mark_taken(state: State, pool: Pool, places: I64) -> None:
    """What is cut of a window moves to the head of its kept instances; their order says nothing else."""
    is_cut = np.zeros(len(pool.ids), dtype=bool)
    is_cut[places] = True
    for row, start, stop in zip(pool.rows, pool.starts, pool.starts[1:], strict=False):
        mine = is_cut[start:stop]
        count = int(mine.sum())
        if count == stop - start:
            state.line.remove(row.window)
            drop_window(state, row.window)
        elif count:
            order = np.concatenate([np.flatnonzero(mine), np.flatnonzero(~mine)]) + row.taken
            row.kept_ids = np.concatenate([row.kept_ids[: row.taken], row.kept_ids[order]])
            row.keep_probabilities = np.concatenate(
                [row.keep_probabilities[: row.taken], row.keep_probabilities[order]]
            )
            row.taken += count
            state.touch("window", row.window, row)


def _progress(state: State, pool: Pool, count: int) -> float:
    """Fraction of the run's budget that is spent: what was offered up to the pool's end, less what waits in it.

    Counted in instances; a function of the plan alone.
    """
    run, epochs = state.the_run, state.settings.epoch_budget
    return 0.0 if epochs is None else max(0.0, (run.pool_offered - (len(pool.ids) - count)) / (epochs * run.n))


def _offered_up_to(state: State, window: int) -> int:
    epoch, place = divmod(window, state.windows_per_epoch)
    return epoch * state.the_run.n + min(state.the_run.n, (place + 1) * state.settings.window_instances)


def _count(state: State, lengths: I32, rank_counts: list[int], *, is_flush: bool) -> None:
    """For the report: tokens, and how many with padding; flushes apart, which take what there is."""
    which = "flushed_" if is_flush else ""
    state.count(f"{which}tokens", int(lengths.sum(dtype=np.int64)))
    state.count(f"{which}padded_tokens", padded_tokens(lengths, rank_counts))
    if is_flush:
        state.count("flushed_steps")
