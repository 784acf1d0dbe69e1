"""The stock and the cutting of global batches from it."""

from __future__ import annotations

import numpy as np

from broker.effects import AppendWindow, Send
from broker.rows import EpochRow, WindowRecord, WindowRow
from broker.state import State
from broker.whole import PREFIX, STALE, count_whole
from protocol.arrays import F32, I64
from protocol.messages import Batch, EpochEnd, Segment
from protocol.off_plan import even_counts


def put_in_stock(
    state: State, row: WindowRow, ids: I64, keep_probabilities: F32, *, offered: I64 | None = None, reason: str = ""
) -> None:
    """A window is decided, once for all: its kept instances wait to be cut, behind those that came before.

    ``offered`` are all its candidates, computed anew if not given; ``reason`` says why it passes unfiltered.
    """
    epoch, run = state.epoch_of(row.window), state.the_run
    offered = state.window_ids(row.window) if offered is None else offered
    state.lease_deadlines.pop(row.window, None)
    row.state, row.kept_ids, row.keep_probabilities, row.taken = "stocked", ids, keep_probabilities, 0
    count_whole(state, row, len(offered), reason)
    if len(ids) == 0:
        drop_window(state, row.window)
    else:
        state.windows[row.window] = row
        if epoch == run.cut_epoch:
            _append_to_line(state, row)
        else:
            _number(state, row)
            state.ahead.setdefault(epoch, []).append(row.window)
    size, counts = len(offered), state.epoch(epoch)
    counts.offered += size
    counts.kept += len(ids)
    counts.closed_windows += 1
    if row.learned_through is None:
        counts.unfiltered += size
    state.touch_epoch(counts)
    state.touch_run()
    _log_decision(state, row, offered, len(ids), reason)


def _log_decision(state: State, row: WindowRow, offered: I64, kept: int, reason: str) -> None:
    record = WindowRecord(
        window=row.window,
        epoch=state.epoch_of(row.window),
        ids=offered,
        kept=kept,
        assistant=row.assistant,
        version=row.version,
        learned_through=row.learned_through,
        reason=reason,
    )
    state.effects.append(AppendWindow(record))


def _append_to_line(state: State, row: WindowRow) -> None:
    """A window is the last one in the line, by its number too: a restarted broker finds the line in that order."""
    _number(state, row)
    state.line.append(row.window)


def _number(state: State, row: WindowRow) -> None:
    row.order = state.the_run.next_order
    state.the_run.next_order += 1
    state.touch("window", row.window, row)


def drop_window(state: State, window: int) -> None:
    """Nothing of a window is left to cut."""
    if state.windows.pop(window, None) is not None:
        state.forget("window", window)


def pass_unfiltered(state: State, row: WindowRow, reason: str) -> None:
    """A window passes whole at π = 1."""
    ids = state.window_ids(row.window)
    row.assistant, row.learned_through, row.version = "", None, 0
    state.count(f"unfiltered_windows_{reason}")
    put_in_stock(state, row, ids, np.ones(len(ids), dtype=np.float32), offered=ids, reason=reason)


def reopen_if_stale(state: State, row: WindowRow, step: int) -> None:
    """A selection in stock that is too stale for ``step``: its untrained IDs, the shrunk ones too, pass at π = 1, in
    place. Of a part of a window, of which nobody knows what was trained, only the kept do."""
    if row.learned_through is None or step - row.learned_through <= state.settings.staleness_bound:
        return
    ids = state.window_ids(row.window)
    rest = row.kept_ids[row.taken :] if row.is_part else ids[~np.isin(ids, row.kept_ids[: row.taken])]
    counts = state.epoch(state.epoch_of(row.window))
    counts.kept += len(rest) - (len(row.kept_ids) - row.taken)
    counts.unfiltered += len(rest)
    if regained := len(rest) - (len(row.kept_ids) - row.taken):
        state.count(PREFIX + STALE, regained)
    row.assistant, row.learned_through, row.version = "", None, 0
    row.kept_ids, row.keep_probabilities, row.taken = rest, np.ones(len(rest), dtype=np.float32), 0
    state.count("reopened_windows")
    state.touch("window", row.window, row)
    state.touch_epoch(counts)


def cut(state: State) -> None:
    """Cut every batch that the Boss's credit and the stock allow, and end the epochs that are used up."""
    run, most, step_instances = state.the_run, state.may_cut, state.settings.step_instances
    while not run.cutting_done:
        allowed, left, ready = run.next_step <= most, remaining_budget(state), state.line_instances
        if left <= 0:
            end_epoch(state, last=True)
        elif ready >= min(step_instances, left):
            if not allowed:
                return
            _cut_step(state, min(step_instances, left))
        elif not epoch_is_offered(state):
            return
        elif not is_last_epoch(state):
            end_epoch(state, last=False)
        elif ready == 0:
            end_epoch(state, last=True)
        else:
            if not allowed:
                return
            _cut_step(state, ready)


def remaining_budget(state: State) -> int:
    """Instances that may still be cut."""
    limit = state.settings.boss_instances
    return limit - state.the_run.instances_cut if limit else 1 << 62


def epoch_is_offered(state: State) -> bool:
    """Whether every window of the epoch that is being cut is decided."""
    return state.epoch(state.the_run.cut_epoch).closed_windows == state.windows_per_epoch


def is_last_epoch(state: State) -> bool:
    """Whether the run ends with the epoch that is being cut."""
    epochs = state.settings.epoch_budget
    return epochs is not None and state.the_run.cut_epoch == epochs - 1


def end_epoch(state: State, *, last: bool) -> None:
    """No later step belongs to the epoch that is being cut; ``last`` ends the run."""
    run = state.the_run
    row = state.epoch(run.cut_epoch)
    row.ended, row.after_step = True, run.next_step - 1
    state.touch_epoch(row)
    _tell_boss(state, epoch_end(state, row, last=last))
    if last:
        run.cutting_done = True
    else:
        run.cut_epoch += 1
        for window in state.ahead.pop(run.cut_epoch, []):
            _append_to_line(state, state.windows[window])
    state.touch_run()


def epoch_end(state: State, row: EpochRow, *, last: bool) -> EpochEnd:
    """What the Boss is told of an epoch's end."""
    returns = int(state.the_run.counters.get("returns_heard", 0))
    return EpochEnd(epoch=row.epoch, after_step=row.after_step, last=last, returns=returns)


def _cut_step(state: State, count: int) -> None:
    ids, keep, segments = _take(state, state.the_run.next_step, count)
    by_epochs = not state.settings.boss_instances
    progress = state.progress(max(segment.window for segment in segments)) if by_epochs else 0.0
    add_step(state, ids, keep, segments, progress=progress)


def add_step(
    state: State,
    ids: I64,
    keep: F32,
    segments: list[Segment],
    *,
    progress: float,
    rank_counts: list[int] | None = None,
) -> None:
    """What was taken from the stock is the next step; ``rank_counts`` are even where they are not given.

    ``progress`` is the run's, where its budget is not in instances.
    """
    run, settings, count = state.the_run, state.settings, len(ids)
    padding, step = max(0, settings.world_size - count), run.next_step
    if padding:
        state.count("padded_instances", padding)
        repeated = np.resize(np.arange(count), count + padding)
        ids, keep = ids[repeated], keep[repeated]
    run.next_step += 1
    run.instances_cut += count
    if settings.boss_instances:
        progress = min(1.0, run.instances_cut / settings.boss_instances)
    batch = Batch(
        step=step,
        epoch=run.cut_epoch,
        progress=progress,
        ids=ids,
        keep_probabilities=keep,
        rank_counts=rank_counts or even_counts(count + padding, settings.world_size),
        segments=segments,
        padding=padding,
        off_plan_before=run.off_plan_steps,
    )
    stale = [step - s.learned_through for s in segments if s.learned_through is not None]
    if stale:
        run.staleness_counts[max(stale)] = run.staleness_counts.get(max(stale), 0) + 1
    state.add_step(batch)
    state.touch_run()
    _tell_boss(state, batch)


def _take(state: State, step: int, count: int) -> tuple[I64, F32, list[Segment]]:
    """The next ``count`` instances of the line; a window that is too stale for ``step`` is reopened first."""
    ids: list[I64] = []
    keep: list[F32] = []
    segments: list[Segment] = []
    while count:
        row = state.windows[state.line[0]]
        reopen_if_stale(state, row, step)
        take = min(count, len(row.kept_ids) - row.taken)
        if take:
            ids.append(row.kept_ids[row.taken : row.taken + take])
            keep.append(row.keep_probabilities[row.taken : row.taken + take])
            segments.append(segment_of(state, row, take))
        row.taken += take
        count -= take
        if row.taken == len(row.kept_ids):
            state.line.popleft()
            drop_window(state, row.window)
        else:
            state.touch("window", row.window, row)
    if len(segments) == 1:
        return ids[0], keep[0], segments
    return np.concatenate(ids), np.concatenate(keep), segments


def segment_of(state: State, row: WindowRow, count: int) -> Segment:
    """So many instances of a window in a batch."""
    return Segment(
        count=count,
        epoch=state.epoch_of(row.window),
        window=row.window,
        assistant=row.assistant,
        version=row.version,
        learned_through=row.learned_through,
    )


def _tell_boss(state: State, message: Batch | EpochEnd) -> None:
    boss = state.boss()
    if boss is not None:
        state.effects.append(Send(boss.row.name, message))
