"""What the Boss did without the plan: steps that it drew by itself, and batches that it gives back.

An off-plan step gets the next number that no batch has, so that steps stay the one clock by which staleness is counted.
One rank only: with several, all would have to draw and give back the same.
"""

from __future__ import annotations

import numpy as np

from broker.routing import log_step_of_its_own
from broker.rows import WindowRow
from broker.state import Member, State
from protocol.arrays import I64, empty_f32, empty_i64
from protocol.messages import Batch, OffPlanReport, Return


def accept_off_plan(state: State, member: Member, report: OffPlanReport) -> None:
    """Count and log off-plan steps; a repeated report changes nothing."""
    run, name = state.the_run, member.row.name
    single = report.number == report.through
    fits = len(report.ids) == len(report.losses) and (single or not len(report.ids))
    known = not len(report.ids) or (report.ids.min() >= 0 and report.ids.max() < run.n)
    ahead = report.through - run.off_plan_steps
    if (
        state.settings.world_size > 1
        or not fits
        or not known
        or report.number > run.off_plan_steps
        or ahead > MAX_MERGED
    ):
        state.count_for(name, "reports_refused")
        return
    if report.through < run.off_plan_steps:
        state.count_for(name, "reports_repeated")
    for _ in range(run.off_plan_steps, report.through + 1):
        step = run.next_step
        run.next_step += 1
        run.off_plan_steps += 1
        run.off_plan_ranges = _with(run.off_plan_ranges, step, min(member.yielded, run.log_step))
        run.instances_cut += len(report.ids) if state.settings.boss_instances else 0
        state.count("off_plan_instances", len(report.ids))
        state.count("reports_delivered")
        batch = Batch(
            step=step,
            epoch=run.cut_epoch,
            progress=0.0,
            ids=report.ids,
            keep_probabilities=np.ones(len(report.ids), dtype=np.float32),
            rank_counts=[len(report.ids)],
            segments=[],
            off_plan_before=run.off_plan_steps - 1,
            kind="off_plan",
        )
        log_step_of_its_own(state, batch, report.losses)


MAX_MERGED = 1 << 20
"""Most off-plan steps that one report may acknowledge."""


def _with(ranges: list[tuple[int, int]], step: int, settled: int) -> list[tuple[int, int]]:
    """The ranges with one more step; those that everybody is beyond are left out."""
    kept = [(start, stop) for start, stop in ranges if stop > settled]
    if kept and kept[-1][1] == step:
        return [*kept[:-1], (kept[-1][0], step + 1)]
    return [*kept, (step, step + 1)]


def accept_return(state: State, member: Member, message: Return) -> None:
    """Put the instances of untrained steps back at the head of the line, unfiltered; their numbers stay unused."""
    run = state.the_run
    for step in sorted(message.steps, reverse=True):
        row = state.steps.get(step)
        if state.settings.world_size > 1 or row is None or row.reported or row.batch.kind != "plan":
            state.count_for(member.row.name, "returns_refused")
            continue
        state.count("returned_steps")
        run.instances_cut -= len(row.batch.ids)
        position = len(row.batch.ids)
        for segment in reversed(row.batch.segments):
            _put_back(state, segment.window, row.batch.ids[position - segment.count : position])
            position -= segment.count
        empty = Batch(
            step=step,
            epoch=row.batch.epoch,
            progress=row.batch.progress,
            ids=empty_i64(),
            keep_probabilities=empty_f32(),
            rank_counts=[0],
            segments=[],
            kind="returned",
        )
        del state.steps[step]
        log_step_of_its_own(state, empty, empty_f32())
    if run.cutting_done and state.line:
        run.cutting_done = False
        epoch = state.epoch(run.cut_epoch)
        epoch.ended = False
        state.touch_epoch(epoch)
    state.touch_run()


def _put_back(state: State, window: int, ids: I64) -> None:
    """Instances of a window go to the head of the line at π = 1, and what is left of the window there with them."""
    counts = state.epoch(state.epoch_of(window))
    row = state.windows.get(window)
    if row is None:
        first = state.windows[state.line[0]].order if state.line else state.the_run.next_order
        row = WindowRow(window=window, state="stocked", order=first - 1, kept_ids=ids)
        state.windows[window] = row
        state.line.appendleft(window)
        newly_unfiltered = len(ids)
    else:
        newly_unfiltered = len(ids) + (len(row.kept_ids) - row.taken if row.learned_through is not None else 0)
        row.kept_ids = np.concatenate([ids, row.kept_ids[row.taken :]])
    row.assistant, row.learned_through, row.version, row.taken = "", None, 0, 0
    row.keep_probabilities = np.ones(len(row.kept_ids), dtype=np.float32)
    counts.unfiltered += newly_unfiltered
    state.touch_epoch(counts)
    state.touch("window", window, row)
