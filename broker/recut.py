"""The run goes on from a checkpoint with another number of Boss ranks: what was cut and not trained is cut anew.

The same instances with the same π, in the same order; no hole and no double in an epoch. Steps after the checkpoint
begin again at the number that nobody has trained.
"""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np

from broker.routing import log_complete
from broker.rows import WindowRow
from broker.state import State
from protocol.arrays import F32, I64, empty_f32
from protocol.errors import SettingError
from protocol.messages import Batch, Segment
from protocol.settings import RunSettings


def agrees(given: RunSettings, run: RunSettings, *, other_world_size: bool = False) -> bool:
    """Whether settings are the run's; the window size may be left to the run, and the world size where it says so."""
    return adapted(given, run, other_world_size=other_world_size) == adapted(run, run)


def adapted(given: RunSettings, run: RunSettings, *, other_world_size: bool = False) -> RunSettings:
    """``given`` with what is the run's to say."""
    try:
        return dataclasses.replace(
            given,
            window_size=given.window_size or run.window_instances,
            batch_size=given.batch_size if run.max_tokens is None else run.batch_size,  # what the lengths make of it
            world_size=run.world_size if other_world_size else given.world_size,
        )
    except SettingError:
        return given


def resized(run: RunSettings, world_size: int) -> RunSettings:
    """The settings of a run that goes on with another number of ranks; its windows stay what they are.

    Raises SettingError where its other settings do not allow it.
    """
    return dataclasses.replace(run, window_size=run.window_instances, world_size=world_size)


def forget_partial_reports(state: State) -> None:
    """Ranks that were ahead of rank 0 report again what they had trained after the checkpoint.

    Steps off the plan are in it, and nobody is left to say with which losses a rank that has not reported trained them.
    """
    for step, row in list(state.steps.items()):
        if row.batch.kind == "plan":
            state.forget_reports(step)
            if step == state.the_run.log_step and state.the_run.log_rank:
                state.reports_of(step).are_logged(state.the_run.log_rank)
            if row.reported:
                row.reported, row.losses = [], {}
                state.touch("step", step, row)
        elif row.batch.kind == "off_plan":
            reports = state.reports_of(step)
            silent = set(range(state.settings.world_size)) - reports.ranks
            reports.take(silent, empty_f32())
            for rank in silent:
                state.keep_report(step, rank)
    log_complete(state)


def recut(state: State, world_size: int) -> None:
    """Put every step that is cut and not logged back in stock, and cut for ``world_size`` ranks from now on.

    Raises SettingError where the run's other settings do not allow it.
    """
    run, settings = state.the_run, resized(state.the_run.settings, world_size)
    for step in sorted(state.planned_steps(), reverse=True):
        _put_back(state, state.drop_step(step).batch)
    _log_what_was_trained(state)
    run.log_origin = (run.log_records, run.log_step)
    run.settings, run.next_step = settings, run.log_step
    run.cut_origin = (run.instances_cut, run.next_step)
    _reopen_epochs(state)
    state.touch_run()


def _log_what_was_trained(state: State) -> None:
    """Off-plan steps wait for the log behind planned ones that are now cut anew: they move up into their numbers."""
    run = state.the_run
    first = run.log_step
    moved = [(state.reports_of(step).losses, state.drop_step(step).batch) for step in sorted(state.steps)]
    for step, (losses, batch) in enumerate(moved, start=first):
        state.add_step(msgspec.structs.replace(batch, step=step))
        for rank, of_rank in losses.items():
            state.reports_of(step).take([rank], of_rank)
            state.keep_report(step, rank)
        if batch.kind == "off_plan":
            state.off_plan[batch.off_plan_before] = step
    log_complete(state)
    before = [(start, min(stop, first)) for start, stop in run.off_plan_ranges if start < first]
    run.off_plan_ranges = [*before, (first, run.log_step)] if run.log_step > first else before


def _put_back(state: State, batch: Batch) -> None:
    run, position = state.the_run, len(batch.ids) - batch.padding
    run.instances_cut -= position
    run.counters["padded_instances"] = run.counters.get("padded_instances", 0) - batch.padding
    stale = [batch.step - s.learned_through for s in batch.segments if s.learned_through is not None]
    if stale:
        run.staleness_counts[max(stale)] -= 1
    for segment in reversed(batch.segments):
        part = slice(position - segment.count, position)
        _put_back_segment(state, segment, batch.ids[part], batch.keep_probabilities[part])
        position -= segment.count


def _put_back_segment(state: State, segment: Segment, ids: I64, keep_probabilities: F32) -> None:
    """To the head of the line. A window of which a part was reopened since then passes at π = 1, all of it."""
    row = state.windows.get(segment.window)
    if row is None:
        first = state.windows[state.line[0]].order if state.line else state.the_run.next_order
        row = WindowRow(window=segment.window, state="stocked", order=first - 1)
        row.assistant, row.version, row.learned_through = segment.assistant, segment.version, segment.learned_through
        state.windows[segment.window] = row
        state.line.appendleft(segment.window)
    row.kept_ids = np.concatenate([ids, row.kept_ids[row.taken :]])
    row.keep_probabilities = np.concatenate([keep_probabilities, row.keep_probabilities[row.taken :]])
    row.taken, row.is_part = 0, True
    if row.learned_through != segment.learned_through:
        row.assistant, row.version, row.learned_through = "", 0, None
        row.keep_probabilities = np.ones(len(row.kept_ids), dtype=np.float32)
    state.touch("window", row.window, row)


def _reopen_epochs(state: State) -> None:
    """Epochs that ended after the checkpoint are cut again; the windows of later ones wait for them."""
    run = state.the_run
    reopened = [e for e in state.epochs.values() if e.ended and e.after_step >= run.next_step]
    for row in reopened:
        row.ended = False
        state.touch_epoch(row)
    if reopened:
        run.cut_epoch, run.cutting_done = min(e.epoch for e in reopened), False
    later = [w for w in state.line if state.epoch_of(w) > run.cut_epoch]
    for window in later:
        state.line.remove(window)
    for window in reversed(later):
        state.ahead.setdefault(state.epoch_of(window), []).insert(0, window)
