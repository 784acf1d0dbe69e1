"""Which window goes to whom, which selections are accepted, and when a window passes unfiltered instead."""

from __future__ import annotations

import numpy as np

from broker import stock, token_pool
from broker.rows import WindowRow
from broker.state import Member, State
from broker.stock import pass_unfiltered, put_in_stock
from protocol.messages import Selection, Window

PASS_RATE_SMOOTHING = 0.1


def supply(state: State, now: float) -> None:
    """Do all that the Boss's demand asks for at this moment: lease, cut, and pass unfiltered where nobody helps."""
    if state.run is None or state.run.ended or state.awaits_lengths:
        return
    expire_leases(state, now)
    while True:
        if state.lengths is None:
            stock.cut(state)
        else:
            token_pool.cut(state)
        lease_windows(state, now)
        if not _is_hungry(state):
            state.hungry_since = None
            return
        if state.hungry_since is None:
            state.hungry_since = now
        reason = _fallback_reason(state, now)
        if reason is None or not _pass_one(state, reason):
            return


def next_deadline(state: State) -> float | None:
    """When ``supply`` must be called again though nothing else happens."""
    run = state.run
    if run is None or run.ended or run.cutting_done or run.settings.deterministic or state.awaits_lengths:
        return None
    deadlines = list(state.lease_deadlines.values())
    if state.hungry_since is not None:
        deadlines.append(state.hungry_since + state.settings.patience_s)
    return min(deadlines, default=None)


def batches_in_hand(state: State) -> int:
    """Batches that lie at the Boss, or are on their way there."""
    boss = state.boss()
    pulled = boss.yielded if boss is not None else 0
    return state.the_run.next_step - 1 - pulled - state.off_plan_after(pulled)


def _demand(state: State) -> int:
    """What the Boss's credit asks for beyond the steps cut, in instances or tokens."""
    return max(0, state.may_cut + 1 - state.the_run.next_step) * state.step_size


def _stock_wanted(state: State) -> int:
    """The same, with the stock's aim and the pool's."""
    return _demand(state) + (state.settings.stock_batches + state.settings.pool_depth) * state.step_size


def _is_hungry(state: State) -> bool:
    return _demand(state) > 0 and not state.the_run.cutting_done


def _fallback_reason(state: State, now: float) -> str | None:
    """Why a window must pass unfiltered now; None while it is worth waiting."""
    settings = state.settings
    if settings.policy == "uniform":
        return "uniform"
    if settings.deterministic:
        return None
    if all(m.stalled for m in state.assistants()) or not (state.lease_deadlines or _free_assistant(state)):
        return "no_assistant"
    if batches_in_hand(state) <= max(1, settings.prefetch_batches // 4):
        return "urgent"
    if state.hungry_since is not None and now - state.hungry_since >= settings.patience_s:
        return "patience"
    return None


def _pass_one(state: State, reason: str) -> bool:
    """Pass the most useful window of the epoch being cut: one that nobody holds before one that is leased."""
    epoch = state.the_run.cut_epoch
    waiting = [w for w in state.windows.values() if w.state != "stocked" and state.epoch_of(w.window) == epoch]
    free = min((w for w in waiting if w.state == "open"), key=lambda w: w.window, default=None)
    row = free or _new_window(state, epoch)
    if row is None and waiting:
        row = min(waiting, key=lambda w: (state.lease_deadlines.get(w.window, 0.0), w.window))
        state.count_for(row.assistant, "leases_overtaken")
    if row is None:
        return False
    pass_unfiltered(state, row, reason)
    return True


def _new_window(state: State, epoch: int | None = None) -> WindowRow | None:
    """The next window of the order, taken out of it; None at the end of the run or of ``epoch``."""
    run, total = state.the_run, state.total_windows
    if (total is not None and run.next_window >= total) or (
        epoch is not None and state.epoch_of(run.next_window) != epoch
    ):
        return None
    row = WindowRow(window=run.next_window)
    run.next_window += 1
    state.touch_run()
    return row


def expire_leases(state: State, now: float) -> None:
    """Windows whose lease has run out are offered again."""
    if state.settings.deterministic:
        return
    for window in [w for w, deadline in state.lease_deadlines.items() if deadline <= now]:
        assistant = state.windows[window].assistant
        state.count_for(assistant, "leases_expired")
        if assistant in state.members:
            state.members[assistant].stalled = True
        release(state, window)


def release(state: State, window: int) -> None:
    """Take a lease back; the window is open again."""
    state.lease_deadlines.pop(window, None)
    row = state.windows[window]
    row.state, row.assistant = "open", ""
    state.touch("window", window, row)


def release_all_of(state: State, name: str) -> None:
    """Take back every lease of an Assistant."""
    for row in [w for w in state.windows.values() if w.state == "leased" and w.assistant == name]:
        release(state, row.window)


def lease_windows(state: State, now: float) -> None:
    """Lease just enough windows, at the present pass rate, to fill the Boss's credit and the stock's aim.

    A window whose lease was taken back is offered again whatever the stock: its epoch cannot end without it.
    """
    settings, run = state.settings, state.the_run
    if run.cutting_done or settings.policy == "uniform":
        return
    if settings.deterministic:
        _lease_in_order(state, now)
        return
    target = _stock_wanted(state)
    expected = state.in_stock + run.pass_rate * sum(state.offered_size(w) for w in state.lease_deadlines)
    while (assistant := _free_assistant(state)) is not None:
        row = _open_window(state) or (_new_window(state) if expected < target else None)
        if row is None:
            return
        _lease(state, row, assistant, now)
        expected += run.pass_rate * state.offered_size(row.window)


def _open_window(state: State) -> WindowRow | None:
    return min((w for w in state.windows.values() if w.state == "open"), key=lambda w: w.window, default=None)


def _free_assistant(state: State) -> Member | None:
    """The Assistant with the fewest leases that is awake and would select freshly enough (admission by forecast)."""
    held: dict[str, int] = {}
    for row in state.leased():
        held[row.assistant] = held.get(row.assistant, 0) + 1
    oldest_allowed = _forecast_step(state) - state.settings.staleness_bound
    free = [
        m
        for m in state.assistants()
        if held.get(m.row.name, 0) < m.slots and m.learned_through >= oldest_allowed and not m.stalled
    ]
    return min(free, key=lambda m: (held.get(m.row.name, 0), m.row.index), default=None)


def _forecast_step(state: State) -> int:
    """The step that would train the last instance of a window leased now, if all of it were kept."""
    run = state.the_run
    before = state.in_stock + int(run.pass_rate * sum(state.offered_size(w) for w in state.lease_deadlines))
    return _last_step_behind(state, before + state.typical_size(state.settings.window_instances))


def _last_step_behind(state: State, size: int) -> int:
    """The step that trains the last of so much in stock; in a pool it may be the last one of all."""
    return state.the_run.next_step + size // state.step_size + state.settings.pool_depth


def _lease(state: State, row: WindowRow, assistant: Member, now: float) -> None:
    row.state, row.assistant, row.attempt = "leased", assistant.row.name, row.attempt + 1
    row.progress = state.progress(row.window)
    state.windows[row.window] = row
    state.lease_deadlines[row.window] = now + state.settings.lease_s
    state.touch("window", row.window, row)
    send_window(state, row)


def send_window(state: State, row: WindowRow) -> None:
    """Say a leased window to its Assistant (again, where it may have been lost)."""
    state.send(
        row.assistant,
        Window(
            window=row.window,
            attempt=row.attempt,
            epoch=state.epoch_of(row.window),
            progress=row.progress,
            ids=state.window_ids(row.window),
            learn_through=row.learn_through,
        ),
    )


def _lease_in_order(state: State, now: float) -> None:
    """Deterministic mode: one window at a time, to the Assistant whose turn it is, with what it must have learned.

    The order to learn lies a fixed depth before the first step that the window can serve, so it depends on the plan
    alone and never on who was quick. Price: Assistants do not score in parallel.
    """
    settings, run = state.settings, state.the_run
    if state.lease_deadlines or state.in_stock >= _stock_wanted(state):
        return
    row = _open_window(state)
    window = row.window if row is not None else run.next_window
    turn = [m for m in state.assistants() if m.row.index == window % settings.assistants]
    if not turn:
        return
    row = row or _new_window(state)
    if row is None:
        return
    depth = settings.prefetch_batches + settings.stock_batches + settings.window_steps
    row.learn_through = max(-1, _first_step(state) - depth)
    _lease(state, row, turn[0], now)


def _first_step(state: State) -> int:
    """The first step that the next window can serve."""
    if state.lengths is not None:
        return token_pool.first_step(state)
    instances, step = state.the_run.cut_origin
    return step + (state.the_run.instances_cut - instances + state.in_stock) // state.settings.step_instances


def accept_selection(state: State, member: Member, selection: Selection) -> None:
    """Put a selection in stock, or refuse it: too late, nonsense, or too stale (admission at arrival)."""
    name = member.row.name
    member.stalled = False
    member.learned_through = state.learnable(selection.learned_through)
    member.lift, member.lift_error = selection.lift, selection.lift_error
    row = state.windows.get(selection.window)
    if row is None or row.state != "leased" or row.assistant != name or row.attempt != selection.attempt:
        state.count_for(name, "selections_late")
        return
    ids = state.window_ids(row.window)
    if nonsense(selection, ids) or _false_claim(state, row, selection):
        state.count_for(name, "selections_refused")
        member.stalled = True
        release(state, row.window)
        return
    run, settings = state.the_run, state.settings
    is_ahead = state.epoch_of(row.window) != run.cut_epoch
    before = state.in_stock if is_ahead else state.waiting(state.line)
    last_step = _last_step_behind(state, before + state.size_of(selection.kept_ids))
    if last_step - selection.learned_through > settings.staleness_bound and not settings.deterministic:
        state.count_for(name, "selections_stale")
        release(state, row.window)
        return
    row.version, row.learned_through = selection.version, selection.learned_through
    run.pass_rate += PASS_RATE_SMOOTHING * (len(selection.kept_ids) / len(ids) - run.pass_rate)
    state.count_for(name, "windows")
    state.count_for(name, "offered", len(ids))
    state.count_for(name, "kept", len(selection.kept_ids))
    put_in_stock(state, row, selection.kept_ids, selection.keep_probabilities, offered=ids)


def _false_claim(state: State, row: WindowRow, selection: Selection) -> bool:
    """Whether a selection claims to have learned what it cannot have, or, in deterministic mode, may not have."""
    learned_through = selection.learned_through
    disobeys = state.settings.deterministic and learned_through != row.learn_through
    return disobeys or learned_through != state.learnable(learned_through)


def nonsense(selection: Selection, ids: np.ndarray) -> str:
    """Why a selection cannot be right; empty where it can."""
    keep = selection.keep_probabilities
    if not len(selection.kept_ids) == len(keep) <= len(ids):
        return "as many probabilities as kept IDs are needed, and no more than the window has"
    if len(keep) and not (np.isfinite(keep).all() and keep.min() > 0.0 and keep.max() <= 1.0):
        return "keep probabilities must lie in (0, 1]"
    by_id = np.argsort(ids)
    found = np.searchsorted(ids, selection.kept_ids, sorter=by_id)
    places = by_id[np.minimum(found, len(ids) - 1)]
    if (ids[places] != selection.kept_ids).any() or (np.diff(places) <= 0).any():
        return "kept IDs must be the window's own, in its order"
    return ""
