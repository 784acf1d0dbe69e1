"""What the Boss did without the plan: steps that it drew by itself, and batches that it gives back.

An off-plan step gets the next number that no batch has, so that steps stay the one clock by which staleness is counted.
All ranks draw the same step, and whichever is heard first tells of it; each brings its own losses.
"""

from __future__ import annotations

import numpy as np

from broker.routing import acknowledge, log_complete, log_untrained_step, rank_slice
from broker.rows import WindowRow
from broker.state import Member, State
from protocol.arrays import I64, empty_f32, empty_i64
from protocol.messages import Batch, OffPlanReport, Return, Segment
from protocol.off_plan import draw_off_plan
from protocol.stream import MOST_MERGED_STEPS


def accept_off_plan(state: State, member: Member, report: OffPlanReport) -> None:
    """Count and log off-plan steps; a repeated report changes nothing."""
    run, name = state.the_run, member.row.name
    is_single = report.number == report.through
    fits = len(report.ids) == len(report.losses) and (is_single or not len(report.ids))
    if not fits or report.number > run.off_plan_steps or report.through - report.number >= MOST_MERGED_STEPS:
        state.count_for(name, "reports_refused")
        return
    first_open = next(iter(state.off_plan), run.off_plan_steps)
    if report.number < first_open:
        state.count_for(name, "reports_repeated")
    steps = []
    for number in range(max(report.number, first_open), report.through + 1):
        if number == run.off_plan_steps:
            if is_single and not _is_drawn(state, number, member.row.rank, report.ids):
                state.count_for(name, "reports_refused")
                return
            _number_next(state)
        steps.append(state.off_plan[number])
        acknowledge(state, name, steps[-1], rank=member.row.rank, losses=report.losses)
    log_complete(state)
    for step in steps:
        state.keep_report(step, member.row.rank)


def _is_drawn(state: State, number: int, rank: int, ids: I64) -> bool:
    """Whether these are what a rank trains in the off-plan step ``number``, where it says at all."""
    drawn = _drawn(state, number)
    return not len(ids) or np.array_equal(ids, drawn.ids[rank_slice(drawn, rank)])


def _drawn(state: State, number: int) -> Batch:
    run = state.the_run
    ids, rank_counts = draw_off_plan(state.settings, run.n, number, state.lengths)
    return Batch(
        step=run.next_step,
        epoch=run.cut_epoch,
        progress=0.0,
        ids=ids,
        keep_probabilities=np.ones(len(ids), dtype=np.float32),
        rank_counts=rank_counts,
        segments=[],
        off_plan_before=number,
        kind="off_plan",
    )


def _number_next(state: State) -> None:
    """The next off-plan step becomes a step of the run."""
    run = state.the_run
    batch = _drawn(state, run.off_plan_steps)
    step, instances = batch.step, len(batch.ids)
    run.next_step += 1
    run.off_plan_steps += 1
    _leave_to_none(state, step)
    run.instances_cut += instances if state.settings.boss_instances else 0
    state.count("off_plan_instances", instances)
    state.add_step(batch)
    state.off_plan[batch.off_plan_before] = step


def _leave_to_none(state: State, step: int) -> None:
    """No batch of the plan has this number; ranges that everybody is beyond are left out."""
    run, boss = state.the_run, state.boss()
    settled = min(boss.yielded if boss is not None else -1, run.log_step)
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted([*run.off_plan_ranges, (step, step + 1)]):
        if ranges and ranges[-1][1] == start:
            ranges[-1] = ranges[-1][0], stop
        elif stop > settled:
            ranges.append((start, stop))
    run.off_plan_ranges = ranges


def accept_return(state: State, member: Member, message: Return) -> None:
    """Put the instances of untrained steps back at the head of the line, unfiltered; their numbers stay unused."""
    run = state.the_run
    state.count("returns_heard", len(message.steps))
    for step in sorted(message.steps, reverse=True):
        row = state.steps.get(step)
        if member.row.rank or row is None or step in state.reports or row.batch.kind != "plan":
            state.count_for(member.row.name, "returns_refused")
            continue
        state.count("returned_steps")
        run.instances_cut -= len(row.batch.ids) - row.batch.padding
        position = len(row.batch.ids) - row.batch.padding
        for segment in reversed(row.batch.segments):
            _put_back(state, segment, row.batch.ids[position - segment.count : position])
            position -= segment.count
        empty = Batch(
            step=step,
            epoch=row.batch.epoch,
            progress=row.batch.progress,
            ids=empty_i64(),
            keep_probabilities=empty_f32(),
            rank_counts=[0] * state.settings.world_size,
            segments=[],
            kind="returned",
        )
        state.drop_step(step)
        _leave_to_none(state, step)
        log_untrained_step(state, empty)
    if run.cutting_done and state.line:
        run.cutting_done = False
        epoch = state.epoch(run.cut_epoch)
        epoch.ended = False
        state.touch_epoch(epoch)
    state.touch_run()


def _put_back(state: State, segment: Segment, ids: I64) -> None:
    """Instances of a window go to the head of the line at π = 1, and what is left of the window there with them."""
    window, newly_unfiltered = segment.window, len(ids) if segment.learned_through is not None else 0
    counts = state.epoch(state.epoch_of(window))
    row = state.windows.get(window)
    if row is None:
        first = state.windows[state.line[0]].order if state.line else state.the_run.next_order
        row = WindowRow(window=window, state="stocked", order=first - 1, kept_ids=ids)
        state.windows[window] = row
        state.line.appendleft(window)
    else:
        newly_unfiltered += len(row.kept_ids) - row.taken if row.learned_through is not None else 0
        row.kept_ids = np.concatenate([ids, row.kept_ids[row.taken :]])
    row.assistant, row.learned_through, row.version, row.taken = "", None, 0, 0
    row.keep_probabilities = np.ones(len(row.kept_ids), dtype=np.float32)
    counts.unfiltered += newly_unfiltered
    state.touch_epoch(counts)
    state.touch("window", window, row)
