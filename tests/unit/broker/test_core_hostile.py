"""Well-formed messages of a peer that is broken or means harm: none raises, none costs memory without bound."""

from __future__ import annotations

import time
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from broker.admission import MAX_NAME
from broker.core import MAX_SLOTS
from broker.effects import Delete, HelloReceived, MessageReceived, PeerLost, Put
from broker.rows import encode_row
from broker.state import MAX_STEPS_AHEAD
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.messages import (
    AnyMessage,
    Batch,
    Checkpoint,
    Credit,
    Envelope,
    EpochEnd,
    EpochResult,
    Heartbeat,
    Hello,
    LossReport,
    OffPlanReport,
    Return,
    Selection,
    Stop,
    Window,
)
from protocol.settings import RunSettings
from tests.unit.broker.world import Peer, SimAssistant, World, joined, train_through

EXTREMES = [0, 1, -1, -2, 5, 63, 2**31, 2**40, 2**62, -(2**62)]
numbers = st.sampled_from(EXTREMES) | st.integers(-3, 40)
floats = st.floats(width=32)
ids = arrays.arrays(np.int64, st.integers(0, 12), elements=st.integers(-(2**63), 2**63 - 1))
values = arrays.arrays(np.float32, st.integers(0, 12), elements=floats)
names = st.sampled_from(["", "boss-0", "assistant-0", "mallory", "x" * 200, "\x00"])

selections = st.builds(
    Selection, window=numbers, attempt=numbers, kept_ids=ids, keep_probabilities=values, learned_through=numbers,
    version=numbers, lift=floats, lift_error=floats,
)  # fmt: skip
credits = st.builds(Credit, limit=numbers, yielded=numbers, learned_through=numbers)
reports = st.builds(LossReport, step=numbers, through=numbers, rank=numbers, losses=values, report_us=floats)
results = st.builds(
    EpochResult, epoch=numbers, step=numbers, metric_name=names, metric_value=floats, boss_instances=numbers,
    train_s=floats, exposed_wait_s=floats, wall_s=floats,
)  # fmt: skip
misdirected = st.builds(
    Batch, step=numbers, epoch=numbers, progress=floats, ids=ids, keep_probabilities=values,
    rank_counts=st.lists(numbers, max_size=3), segments=st.just([]), padding=numbers,
) | st.builds(EpochEnd, epoch=numbers, after_step=numbers) | st.builds(
    Window, window=numbers, attempt=numbers, epoch=numbers, progress=floats, ids=ids
) | st.builds(Stop, reason=st.sampled_from(["finished", "failed"])) | st.builds(Heartbeat, seq=numbers)  # fmt: skip
counts = numbers.filter(lambda n: n >= 0)
off_plan = st.builds(OffPlanReport, number=counts, through=counts, ids=ids, losses=values) | st.builds(
    Return, steps=st.lists(counts, max_size=4)
)


def through_the_wire(message: AnyMessage) -> AnyMessage | None:
    """The message as the core would get it; None where the codec refuses it already."""
    try:
        return decode(encode(Envelope(seq=0, span=1, ack=0, message=message))).message
    except ProtocolError:
        return None


anything = selections | credits | reports | off_plan | results | misdirected | st.builds(Checkpoint, step=numbers)
messages = anything.map(through_the_wire).filter(lambda m: m is not None)
senders = st.sampled_from(["boss-0", "boss-1", "assistant-0", "assistant-1", "nobody"])


def plausible(message: AnyMessage, world: World) -> AnyMessage:
    """A selection for a window that mallory really holds gets further than one for a window of nobody."""
    mallory = world.assistants[-1]
    if not isinstance(message, Selection) or not mallory.windows or message.attempt != 1:
        return message
    return changed(message, window=mallory.windows[-1].window, attempt=mallory.windows[-1].attempt)


def changed(selection: Selection, **changes: Any) -> Selection:
    """A selection that differs in some fields."""
    return Selection(**({name: getattr(selection, name) for name in selection.__struct_fields__} | changes))


@given(said=st.lists(st.tuples(senders, messages, counts), max_size=12), world_size=st.integers(1, 2))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_message_raises_or_grows_the_state_without_bound(
    said: list[tuple[str, AnyMessage, int]], world_size: int
) -> None:
    """Somebody has written a client of their own, and got every field wrong."""
    world = joined(200, assistants=2, epochs=2, batch_size=10 // world_size, world_size=world_size, window_size=20)
    train_through(world, 3)
    state = world.core.state
    rows = dict(world.rows)
    for name, message, seq in said:
        effects = world.core.handle(MessageReceived(name, plausible(message, world), seq), world.now)
        changes = [e for e in effects if isinstance(e, (Put, Delete))]
        rows |= {(e.kind, e.key): encode_row(e.row) if isinstance(e, Put) else b"" for e in changes}
    world.audit.same_as_rebuilt(world.core, {key: raw for key, raw in rows.items() if raw})
    assert len(state.epochs) <= 3 and len(state.peers) <= 5
    assert len(state.windows) <= 2 * state.windows_per_epoch and len(state.steps) <= 1000
    assert len(state.the_run.counters) < 20 and all(len(p.counters) < 20 for p in state.peers.values())
    assert all(1 <= s <= state.settings.staleness_bound for s in state.the_run.staleness_counts)


@given(said=st.lists(messages, min_size=1, max_size=12))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_an_assistant_says_the_run_goes_on_to_its_end_and_all_that_is_promised_holds(
    said: list[AnyMessage],
) -> None:
    """Bad input is refused, the rest goes on: the same audit as in ``test_core_machine``."""
    world = joined(60, assistants=2, epochs=2, batch_size=5, window_size=10)
    mallory = world.assistants[-1]
    mallory.granted = 1 << 62
    mallory.position = 0
    for message in said:
        said_now = plausible(message, world)
        if isinstance(said_now, Selection):
            # What it claims to have learned cannot be checked, as long as it may be true: it claims nothing.
            said_now = changed(said_now, learned_through=-1)
        world.say(mallory.peer, said_now)
        mallory.windows = [
            w
            for w in mallory.windows
            if (row := world.core.state.windows.get(w.window)) is not None
            and (row.state, row.attempt, row.assistant) == ("leased", w.attempt, mallory.peer.name)
        ]
        world.train(2)
        world.serve(world.assistants[0])
    world.finish()


# Credits


def test_a_boundless_credit_is_served_to_a_bound() -> None:
    """Credit(limit=2**62): a client that wants to be sent everything at once."""
    world = joined(100_000, assistants=0, boss_instances=10**9, batch_size=1, window_size=64)
    start = time.process_time()
    world.core.handle(MessageReceived("boss-0", Credit(limit=2**62, yielded=-(2**62))), world.now)
    assert len(world.core.state.steps) == world.core.state.the_run.next_step == MAX_STEPS_AHEAD
    assert time.process_time() - start < 20.0
    for step in range(10):
        report = LossReport(step=step, through=step, rank=0, losses=np.zeros(1, np.float32))
        world.core.handle(MessageReceived("boss-0", report), world.now)
    assert world.core.state.the_run.next_step == MAX_STEPS_AHEAD + 10, "the bound moves on with the reports"


def test_a_boundless_credit_is_bounded_in_instances_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """4096 batches of 65,536 would be three gigabytes."""
    monkeypatch.setattr("broker.state.MAX_INSTANCES_AHEAD", 1000)
    world = joined(100_000, assistants=0, boss_instances=10**9, batch_size=100, window_size=100)
    world.core.handle(MessageReceived("boss-0", Credit(limit=2**62)), world.now)
    assert len(world.core.state.steps) == 10


def test_the_bound_leaves_a_boss_two_batches_however_large_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a large batch would never be trained."""
    monkeypatch.setattr("broker.state.MAX_INSTANCES_AHEAD", 10)
    world = joined(1000, assistants=0, epochs=1, batch_size=100, window_size=100, prefetch_batches=2)
    world.finish()


@pytest.mark.parametrize("limit", [-(2**62), -2, -1])
def test_a_credit_below_nothing_is_no_credit(limit: int) -> None:
    """And it takes nothing back that was granted before."""
    world = joined(100, assistants=0, epochs=1, batch_size=10)
    world.say(world.boss.ranks[0], Credit(limit=limit, yielded=-1))
    assert world.core.state.the_run.next_step == 0
    world.grant()
    before = world.boss.last_step
    world.say(world.boss.ranks[0], Credit(limit=limit, yielded=-1))
    assert world.boss.last_step == before == 7


def test_an_older_credit_that_arrives_late_takes_nothing_back() -> None:
    """Credits are unnumbered, and one may overtake another."""
    world = joined(400, epochs=1, batch_size=10, window_size=10, prefetch_batches=8)
    world.grant()
    assert world.boss.last_step == 2, "the rest waits for the Assistant"
    world.say(world.boss.ranks[0], Credit(limit=3, yielded=-1))
    world.advance(world.settings.patience_s)
    assert world.boss.last_step == 7


def test_records_run_no_further_ahead_of_what_an_assistant_has_learned_than_is_sensible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An Assistant that lets everything come and takes nothing from its socket: the broker would hold it all."""
    monkeypatch.setattr("broker.state.MAX_STEPS_AHEAD", 50)
    world = joined(4000, **{"epochs": 1, "batch_size": 4, "window_size": 8, "staleness_bound": 1000})
    assistant = world.assistants[0]
    assistant.granted = 2**62
    world.say(assistant.peer, Credit(limit=2**62, learned_through=-1))
    train_through(world, 100)
    assert assistant.position == 50
    assistant.learn()
    world.say(assistant.peer, Credit(limit=2**62, learned_through=assistant.learned_through))
    assert assistant.position == 100


# The rest, one by one


def test_a_report_of_a_billion_billion_steps_costs_nothing() -> None:
    """LossReport(through=2**60)."""
    world = joined(100, assistants=0, epochs=1, batch_size=10)
    world.grant()
    start = time.process_time()
    for step, through in [(0, 2**60), (-(2**60), 2**60), (-(2**60), -1)]:
        report = LossReport(step=step, through=through, rank=0, losses=np.zeros(0, np.float32))
        world.say(world.boss.ranks[0], report)
    assert time.process_time() - start < 1.0
    assert world.losses == []
    assert world.core.state.peers["boss-0"].counters["reports_refused"] == 3


def test_evaluations_of_ever_new_epochs_do_not_fill_the_store() -> None:
    """A counter that was mistaken for the epoch."""
    world = joined(100, assistants=0, epochs=1, batch_size=10)
    for epoch in range(1000):
        result = EpochResult(
            epoch=epoch, step=0, metric_name="m", metric_value=0.0, boss_instances=0, train_s=0.0, exposed_wait_s=0.0,
            wall_s=0.0,
        )  # fmt: skip
        world.core.handle(MessageReceived("boss-0", result), world.now)
    assert len(world.core.state.epochs) == 1


def test_an_assistant_with_all_the_slots_in_the_world_does_not_take_all_the_windows() -> None:
    """One event leases a bounded number, also where almost nothing passes."""
    settings_of_run = RunSettings(epochs=1, batch_size=1, window_size=1, stock_batches=90, staleness_bound=200)
    world = World(settings_of_run, 1000)
    world.hello(world.boss.ranks[0])
    world.hello(world.assistants[0].peer, slots=2**62)
    assert len(world.assistants[0].windows) == MAX_SLOTS


@pytest.mark.parametrize("kind", typing.get_args(AnyMessage))
def test_every_kind_of_message_from_every_role_is_handled_or_refused_and_counted(kind: Any) -> None:
    """A message that only the broker sends, or that another role sends, is refused; none goes by unnoticed."""
    fitting = {
        "boss-0": {"Credit", "LossReport", "OffPlanReport", "Return", "EpochResult", "Goodbye"},
        "assistant-0": {"Credit", "Selection", "Goodbye"},
    }
    for name, own in fitting.items():
        world = joined(100, epochs=1, batch_size=10)
        message = kind(**{f: _example(f) for f in kind.__struct_fields__})
        world.core.handle(MessageReceived(name, message), world.now)
        refused = world.core.state.peers[name].counters.get("messages_refused", 0)
        assert refused == (0 if kind.__name__ in own else 1), name


def _example(field: str) -> Any:
    if field in ("ids", "kept_ids", "set_aside"):
        return np.zeros(0, np.int64)
    if field in ("keep_probabilities", "losses"):
        return np.zeros(0, np.float32)
    special = {
        "reason": "finished",
        "figures": {},
        "rank_counts": [],
        "segments": [],
        "steps": [],
        "settings": RunSettings(),
        "groups": {},
    }
    return special.get(field, 0)


def test_messages_of_somebody_who_has_not_joined_change_nothing() -> None:
    """It was given up for lost, and has not said Hello again yet."""
    world = joined(100, epochs=1, batch_size=10)
    world.handle(PeerLost("assistant-0"))
    before = dict(world.rows)
    for name in ("assistant-0", "nobody"):
        assert world.core.handle(MessageReceived(name, Credit(limit=5), 7), world.now) == []
    assert world.rows == before


def test_hellos_of_any_shape_never_raise() -> None:
    """Names, ranks, positions and slots at the ends of their types."""

    @given(
        hello=st.builds(
            Hello, role=st.sampled_from(["boss", "assistant"]), name=names, incarnation=names,
            dataset_id=names | st.just("data:1"), n=numbers | st.just(100), rank=numbers, slots=numbers,
            position=numbers, protocol=numbers | st.just(1),
            settings=st.none() | st.just(RunSettings(epochs=1, batch_size=10)), stream=names,
        ),
        fresh=st.booleans(),
        elsewhere=st.booleans(),
        joined_before=st.booleans(),
    )  # fmt: skip
    @settings(max_examples=200, deadline=None)
    def check(hello: Hello, fresh: bool, elsewhere: bool, joined_before: bool) -> None:
        if joined_before:
            world = joined(100, epochs=1, batch_size=10)
        else:
            world = World(RunSettings(epochs=1, batch_size=10), 100)
        world.core.handle(HelloReceived(hello, fresh=fresh, alive_elsewhere=elsewhere), world.now)
        assert len(world.core.state.peers) <= 3
        assert not any(len(name) > MAX_NAME for name in world.core.state.peers)

    check()


def test_an_assistant_that_keeps_nothing_cannot_starve_the_boss() -> None:
    """Every window comes back empty and at once: after the patience the Boss gets unfiltered ones all the same."""
    world = joined(1000, epochs=4, batch_size=10, window_size=10)
    assistant = SimAssistant(Peer("greedy", "assistant"))
    world.assistants.append(assistant)
    world.hello(assistant.peer)
    world.grant()
    for _ in range(10):
        world.advance(0.05)
        for _ in range(20):
            if assistant.windows:
                world.say(assistant.peer, assistant.select(assistant.windows.pop(0), rate=0.0))
    assert world.boss.last_step == 7
