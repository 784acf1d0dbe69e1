"""Loss reports: acknowledged once, logged in (step, rank) order, told to every Assistant that has credit."""

from __future__ import annotations

import numpy as np

from broker.effects import AppendBatch, AppendLoss, Send, SendRecords
from broker.state import Member, State
from protocol.arrays import F32, empty_f32
from protocol.messages import Batch, Hello, LossRecord, LossReport, RecordsDropped, history_id

REPLAY_RECORDS = 1 << 16
"""Most loss records that an Assistant which joins late is given to catch up on, outside deterministic mode."""
CHUNK_RECORDS = 64
"""Most records that one effect asks the loop to read, or those of a step where it has more."""


def accept_report(state: State, member: Member, report: LossReport) -> None:
    """Acknowledge the steps of a report and log what is complete. A repeated report changes nothing."""
    name, run = member.row.name, state.the_run
    several = report.through != report.step
    is_own = report.rank == member.row.rank and 0 <= report.step <= report.through < run.next_step
    if not is_own or (several and len(report.losses)):
        state.count_for(name, "reports_refused")
        return
    if report.step < run.log_step:
        state.count_for(name, "reports_repeated")
    new = range(max(report.step, run.log_step), report.through + 1)
    for step in new:
        acknowledge(state, name, step, rank=report.rank, losses=report.losses)
    log_complete(state)
    for step in new:
        state.keep_report(step, report.rank)


def acknowledge(state: State, name: str, step: int, *, rank: int, losses: F32) -> None:
    """A rank has trained a step; its losses wait until those before them are in the log. Once is enough.

    After ``log_complete`` what waits is to be kept.
    """
    reports = state.reports_of(step)
    if rank in reports.ranks:
        state.count_for(name, "reports_repeated")
        return
    expected = reports.batch.rank_counts[rank]
    if len(losses) not in (0, expected):
        state.count_for(name, "reports_refused")
        losses = empty_f32()
    state.count("reports_delivered")
    if not len(losses):
        state.count("values_dropped", expected)
    elif not np.isfinite(losses).all():
        state.count("values_not_finite", int((~np.isfinite(losses)).sum()))
    if rank == 0 and reports.batch.kind == "plan":
        state.the_run.reported_step = max(state.the_run.reported_step, step)
    reports.take([rank], losses)


def log_untrained_step(state: State, batch: Batch) -> None:
    """Log a step that no rank has trained, in its turn."""
    ranks = range(state.settings.world_size)
    state.add_step(batch)
    state.reports_of(batch.step).take(ranks, empty_f32())
    log_complete(state)
    for rank in ranks:
        state.keep_report(batch.step, rank)


def rank_slice(batch: Batch, rank: int) -> slice:
    """Where a rank's instances stand in the batch."""
    start = sum(batch.rank_counts[:rank])
    return slice(start, start + batch.rank_counts[rank])


def log_complete(state: State) -> None:
    """Move reports to the log, in order, as far as there is no hole."""
    run = state.the_run
    while (reports := state.reports.get(run.log_step)) is not None and run.log_rank in reports.losses:
        rank, step, batch = run.log_rank, run.log_step, reports.batch
        losses = reports.losses.pop(rank)
        last_rank = rank == state.settings.world_size - 1
        place = reports.place(rank)
        record = LossRecord(
            position=run.log_records,
            step=step,
            rank=rank,
            learned_through=step if last_rank else step - 1,
            epoch=batch.epoch,
            ids=batch.ids[place] if len(losses) else batch.ids[:0],
            losses=losses[: place.stop - place.start],
            keep_probabilities=batch.keep_probabilities[place] if len(losses) else empty_f32(),
        )
        state.append(AppendLoss(record))
        run.log_records += 1
        run.log_step, run.log_rank = (step + 1, 0) if last_rank else (step, rank + 1)
        if last_rank:
            run.instances_trained += len(batch.ids) - batch.padding
            state.append(AppendBatch(batch))
            state.drop_step(step)
            if batch.kind == "off_plan":
                del state.off_plan[batch.off_plan_before]
        state.touch_run()
        for member in state.assistants():
            if member.cursor == record.position and member.cursor < member.may_hear(run):
                member.cursor += 1
                state.effects.append(Send(member.row.name, record))


def start_replay(state: State, member: Member, hello: Hello) -> None:
    """An Assistant that has joined hears the records that it has not; far too many are declared dropped.

    Deterministic mode replays all: what an Assistant has learned decides what it selects. One that comes with records
    of another log hears this one from its beginning.
    """
    run = state.the_run
    is_ours = hello.history in ("", history_id(run.run_id, run.generation)) and hello.position <= run.log_records
    member.cursor = max(member.cursor, hello.position if is_ours else 0)
    member.replay_until = run.log_records
    oldest = run.log_records - REPLAY_RECORDS
    if member.cursor < oldest and not state.settings.deterministic:
        _drop_records(state, member, oldest)


def _drop_records(state: State, member: Member, through: int) -> None:
    """Records below ``through`` that an Assistant has not been sent will not come."""
    state.count_for(member.row.name, "records_dropped", through - member.cursor)
    member.cursor = through
    _say_dropped(state, member, through)


def drop_unreadable(state: State, member: Member, start: int, through: int) -> None:
    """Records that were to be sent, and are damaged, will not come: an Assistant that lacks them ends no training."""
    state.count_for(member.row.name, "records_dropped", through - start)
    _say_dropped(state, member, through)


def _say_dropped(state: State, member: Member, through: int) -> None:
    position, step = state.the_run.log_origin
    learned_through = member.learned_through  # how many records each step had before the origin is not kept
    if through >= position:
        learned_through = step + (through - position) // state.settings.world_size - 1
    state.send(member.row.name, RecordsDropped(through_position=through, learned_through=learned_through))


def catch_up(state: State, member: Member) -> None:
    """Send an Assistant the records that it has credit for; declare dropped what it lags behind too far."""
    run, settings = state.the_run, state.settings
    lag_limit = 4 * settings.staleness_bound * settings.world_size
    behind = run.log_records - member.cursor
    if behind > lag_limit and member.cursor >= member.replay_until and not settings.deterministic:
        _drop_records(state, member, run.log_records - settings.staleness_bound * settings.world_size // 2)
    chunk = max(CHUNK_RECORDS, settings.world_size)
    stop = min(run.log_records, member.may_hear(run), member.cursor + chunk)
    if stop > member.cursor:
        state.effects.append(SendRecords(member.row.name, member.cursor, stop))
        member.cursor = stop
