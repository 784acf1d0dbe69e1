"""The state of a run, from the rows in which the run store keeps it."""

from __future__ import annotations

import msgspec

from broker.rows import EpochRow, PeerRow, ReportsRow, Row, RunRow, StepRow, WindowRow
from broker.state import State


def state_of(rows: list[tuple[str, Row]]) -> State:
    """What these rows say; nobody is connected."""
    state = State()
    waiting: list[ReportsRow] = []
    for kind, row in rows:
        match row:
            case RunRow():
                state.run = row
            case WindowRow():
                state.windows[row.window] = row
            case StepRow():
                state.steps[row.batch.step] = row
            case ReportsRow():
                waiting.append(row)
            case PeerRow():
                state.peers[row.name] = row
                if row.role == "assistant" and not row.has_left:
                    state.returning.add(row.name)
            case EpochRow():
                state.epochs[row.epoch] = row
            case _:
                raise msgspec.ValidationError(f"unknown kind of row {kind}")
    _restore_reports(state, waiting)
    own = [row.batch for row in state.steps.values() if row.batch.kind == "off_plan"]
    state.off_plan = {b.off_plan_before: b.step for b in sorted(own, key=lambda b: b.off_plan_before)}
    stocked = [w for w in state.windows.values() if w.state == "stocked"]
    for window in sorted(stocked, key=lambda w: w.order):
        if state.epoch_of(window.window) <= state.the_run.cut_epoch:
            state.line.append(window.window)
        else:
            state.ahead.setdefault(state.epoch_of(window.window), []).append(window.window)
    return state


def _restore_reports(state: State, waiting: list[ReportsRow]) -> None:
    for step, row in state.steps.items():
        if row.reported:
            reports = state.reports_of(step)
            reports.ranks, reports.losses = set(row.reported), dict(row.losses)
    for part in waiting:
        state.reports_of(part.step).restore(part)
    if state.run is not None and state.run.log_rank:
        state.reports_of(state.run.log_step).are_logged(state.run.log_rank)
