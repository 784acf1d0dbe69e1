"""Loss reports: acknowledged once, logged in (step, rank) order, and told to the Assistants within their credit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker import routing
from broker.effects import HelloReceived, MessageReceived, Send, SendRecords
from protocol.arrays import empty_f32, empty_i64
from protocol.messages import Credit, EpochResult, Hello, LossRecord, LossReport, OffPlanReport, RecordsDropped
from protocol.stream import MOST_MERGED_STEPS
from tests.unit.broker.world import Peer, SimAssistant, World, joined, train_through

RUN: dict[str, Any] = {"epochs": 2, "batch_size": 4, "window_size": 8}


def with_batches(steps: int, *, assistants: int = 1, **settings: Any) -> World:
    """A run of which the Boss has pulled ``steps`` batches and reported none."""
    world = joined(400, assistants=assistants, **RUN | {"prefetch_batches": steps} | settings)
    world.grant()
    world.advance(world.settings.patience_s)
    while world.pull():
        pass
    assert world.boss.last_pulled == steps - 1
    return world


def say(world: World, step: int, losses: Any = (), *, rank: int = 0, through: int | None = None, by: int = -1) -> None:
    """Rank ``by`` (its own where not given) says a report as given."""
    values = np.asarray(losses, np.float32)
    report = LossReport(step=step, through=step if through is None else through, rank=rank, losses=values)
    world.say(world.boss.ranks[rank if by < 0 else by], report)


def counted(world: World, counter: str, peer: str = "boss-0") -> float:
    """A counter of the run and of a peer, together."""
    state = world.core.state
    return state.the_run.counters.get(counter, 0) + state.peers[peer].counters.get(counter, 0)


# Acknowledgement


def test_reports_are_logged_by_step_and_rank_whoever_is_quicker() -> None:
    """Rank 1 is ahead of rank 0: its losses wait, so every Assistant learns in the same order."""
    world = with_batches(3, world_size=2)
    for step in (0, 1, 2):
        say(world, step, np.full(4, step + 0.5), rank=1)
    assert world.losses == []
    say(world, 0, np.zeros(4), rank=0)
    assert [(r.position, r.step, r.rank, r.learned_through) for r in world.losses] == [(0, 0, 0, -1), (1, 0, 1, 0)]
    say(world, 1, np.ones(4), rank=0)
    assert [(r.step, r.rank) for r in world.losses] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [r.losses[0] for r in world.losses] == [0.0, 0.5, 1.0, 1.5]
    assert [b.step for b in world.finished] == [0, 1]


def test_a_rank_gets_logged_with_its_own_ids_and_probabilities() -> None:
    """The pairs that Assistants learn from."""
    world = with_batches(1, world_size=2)
    for rank in (0, 1):
        say(world, 0, np.arange(4), rank=rank)
    batch = world.audit.batches[0]
    assert np.array_equal(world.losses[0].ids, batch.ids[:4]) and np.array_equal(world.losses[1].ids, batch.ids[4:])
    assert np.array_equal(world.losses[1].keep_probabilities, batch.keep_probabilities[4:])


def test_a_range_of_bare_acknowledgements_finishes_its_steps_without_values() -> None:
    """After an outage the Boss's oldest values were dropped; the steps count as trained all the same."""
    world = with_batches(4)
    say(world, 0, through=2)
    assert [len(r.ids) for r in world.losses] == [0, 0, 0]
    assert [r.learned_through for r in world.losses] == [0, 1, 2]
    assert counted(world, "values_dropped") == 12 and counted(world, "reports_delivered") == 3
    assert world.core.state.the_run.instances_trained == 12


def test_a_step_that_is_reported_again_counts_once_and_keeps_its_first_losses() -> None:
    """The connection broke before the acknowledgement came; a merged range names old steps again."""
    world = with_batches(4, world_size=2)
    say(world, 0, np.ones(4))
    say(world, 0, np.full(4, 9.0))
    say(world, 0, through=1)
    assert counted(world, "reports_repeated") == 2
    say(world, 0, np.ones(4), rank=1)
    say(world, 0, np.full(4, 9.0), rank=1)
    assert [r.losses.tolist() for r in world.losses[:2]] == [[1.0] * 4, [1.0] * 4]
    assert counted(world, "reports_repeated", "boss-1") == 1
    assert world.core.state.the_run.instances_trained == 8


def test_losses_of_another_length_are_not_believed_but_the_step_is_acknowledged() -> None:
    """A script reports the mean over two: the run must not stand still for it."""
    world = with_batches(1)
    say(world, 0, [1.0, 2.0])
    assert len(world.losses) == 1 and len(world.losses[0].ids) == 0
    assert counted(world, "reports_refused") == 1 and counted(world, "values_dropped") == 4


def test_losses_that_are_not_finite_are_counted_and_passed_on() -> None:
    """An overflow in half precision: the Assistant leaves these out, the report says how many there were."""
    world = with_batches(1)
    say(world, 0, [1.0, np.nan, np.inf, -np.inf])
    assert counted(world, "values_not_finite") == 3
    assert np.array_equal(world.losses[0].losses, np.array([1.0, np.nan, np.inf, -np.inf], np.float32), equal_nan=True)


@pytest.mark.parametrize(
    "report",
    [
        {"step": 9},
        {"step": 0, "through": 9},
        {"step": 0, "through": 2**60},
        {"step": -5},
        {"step": -5, "through": 1},
        {"step": 2, "through": 1},
        {"step": 0, "through": 1, "losses": [1.0] * 4},
        {"step": 0, "rank": 1, "by": 0},
        {"step": 0, "rank": 2, "by": 0},
        {"step": 0, "rank": -1, "by": 0},
    ],
)
def test_a_report_of_what_a_rank_cannot_have_trained_is_refused_whole(report: dict[str, Any]) -> None:
    """Steps that were never cut, and those of other ranks."""
    world = with_batches(3, world_size=2)
    say(world, **report)
    assert counted(world, "reports_refused") == 1
    assert all(not row.reported for row in world.core.state.steps.values()) and len(world.core.state.steps) == 3


def test_an_evaluation_is_kept_with_its_epoch_and_one_of_an_epoch_that_is_yet_to_come_is_refused() -> None:
    """A bug in the training script counts epochs from 2000."""
    world = joined(8, assistants=0, epochs=2, batch_size=4, window_size=4)
    train_through(world, 1)

    def result(epoch: int) -> EpochResult:
        return EpochResult(
            epoch=epoch, step=1, metric_name="accuracy", metric_value=0.5, boss_instances=8, train_s=1.0,
            exposed_wait_s=0.0, wall_s=1.0,
        )  # fmt: skip

    for epoch in (0, 2000, -1, 2):
        world.say(world.boss.ranks[0], result(epoch))
    assert world.core.state.epochs[0].result == result(0)
    assert set(world.core.state.epochs) <= {0, 1}
    assert counted(world, "messages_refused") == 3


# What Assistants hear


def test_every_assistant_hears_every_record_once_within_its_credit() -> None:
    """One Assistant lets four records come, the other all."""
    world = with_batches(8, assistants=2)
    narrow, wide = world.assistants
    world.lose(narrow.peer)
    world.hello(narrow.peer)
    for assistant, credit in ((narrow, 4), (wide, 100)):
        assistant.granted = credit
        world.say(assistant.peer, Credit(limit=credit))
    say(world, 0, through=7)
    assert (narrow.position, wide.position) == (4, 8)
    narrow.granted = 7
    world.say(narrow.peer, Credit(limit=7))
    assert narrow.position == 7


def test_an_assistant_that_joins_late_hears_the_whole_log_in_portions() -> None:
    """It is started in epoch 3 and learns from the beginning; no event costs the broker more than a portion."""
    world = joined(400, assistants=0, **RUN)
    train_through(world, 149)
    late = SimAssistant(Peer("late", "assistant"))
    world.assistants.append(late)
    world.hello(late.peer)
    late.granted = 1000
    portions = []
    while late.position < 150:
        effects = world.say(late.peer, Credit(limit=1000, learned_through=-1))
        portions += [e.stop - e.start for e in effects if isinstance(e, SendRecords)]
    assert portions == [64, 64, 22]
    assert late.dropped == 0


def test_an_assistant_that_comes_back_hears_only_what_it_has_not() -> None:
    """It says in its Hello how many records it has."""
    world = with_batches(8)
    assistant = world.assistants[0]
    say(world, 0, through=3)
    assistant.learn()
    world.lose(assistant.peer)
    say(world, 4, through=7)
    world.hello(assistant.peer)
    world.say(assistant.peer, assistant.credit())
    assert [r.position for r in assistant.records if isinstance(r, LossRecord)] == [4, 5, 6, 7]


@pytest.mark.parametrize("told", [{"position": 10**12}, {"position": 2, "history": "another-run/0"}])
def test_an_assistant_with_records_of_another_log_hears_this_one_from_its_beginning(told: dict[str, Any]) -> None:
    """Its checkpoint is of another run under the same name, or of a time that was taken back."""
    world = with_batches(4)
    assistant = world.assistants[0]
    say(world, 0, through=3)
    world.lose(assistant.peer)
    assistant.restart(from_checkpoint=False)
    world.hello(assistant.peer, **told)
    world.say(assistant.peer, assistant.credit())
    assert [r.position for r in assistant.records if isinstance(r, LossRecord)] == [0, 1, 2, 3]


def far_behind(**settings: Any) -> World:
    """An Assistant that has taken 8 records and then no more, while the Boss went on."""
    world = joined(4000, **RUN | {"prefetch_batches": 2, "stock_batches": 1, "staleness_bound": 20} | settings)
    train_through(world, 20)
    assert world.assistants[0].position == 8
    return world


def test_an_assistant_that_lags_too_far_is_told_what_was_dropped_and_goes_on_from_there() -> None:
    """It was suspended for minutes: what it would learn is too old to be of use, and the log does not wait."""
    world = far_behind()
    assistant = world.assistants[0]
    train_through(world, 100)
    dropped = [r for r in assistant.records if isinstance(r, RecordsDropped)]
    assert len(dropped) == 1 and assistant.dropped > 0
    assert dropped[0].learned_through == dropped[0].through_position - 1
    assert counted(world, "records_dropped", assistant.peer.name) == assistant.dropped
    for _ in range(40):
        assistant.learn()
        world.say(assistant.peer, assistant.credit())
    assert assistant.learned_through == 100


def test_a_lag_within_bounds_drops_nothing() -> None:
    """Up to four staleness bounds are caught up on."""
    world = far_behind()
    train_through(world, 8 + 80 - 1)
    assert world.assistants[0].dropped == 0


def test_deterministic_mode_drops_nothing() -> None:
    """What an Assistant has learned decides what it selects."""
    world = joined(4000, **RUN | {"prefetch_batches": 2, "stock_batches": 1, "staleness_bound": 20}, deterministic=True)
    assistant = world.assistants[0]
    for _ in range(130):
        world.serve(assistant, rate=1.1)
        world.train()
    assert world.core.state.the_run.log_records > 100 and assistant.dropped == 0


def test_the_replay_at_joining_is_not_dropped_however_long_it_is() -> None:
    """A new Assistant is as far behind as can be, and is to learn it all."""
    world = joined(4000, assistants=0, **RUN | {"prefetch_batches": 2, "stock_batches": 1, "staleness_bound": 20})
    train_through(world, 200)
    late = SimAssistant(Peer("late", "assistant"))
    world.assistants.append(late)
    world.hello(late.peer)
    while late.learned_through < 200:
        world.say(late.peer, late.credit())
        late.learn()
    assert late.dropped == 0


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_replay_beyond_all_measure_is_declared_dropped_so_that_learning_can_begin(
    monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    """A million records: the newest are enough, and the Assistant is told so, or its credit would never reach them."""
    monkeypatch.setattr(routing, "REPLAY_RECORDS", 50)
    world = joined(4000, assistants=0, world_size=world_size, **RUN)
    train_through(world, 40 * 3 // world_size)
    records = world.core.state.the_run.log_records
    late = SimAssistant(Peer("late", "assistant"))
    world.assistants.append(late)
    world.hello(late.peer)
    first = late.records[0]
    assert isinstance(first, RecordsDropped) and first.through_position == records - 50
    assert first.learned_through == (records - 50) // world_size - 1
    while late.position < records:
        late.learn()
        world.say(late.peer, late.credit())
    assert late.dropped == records - 50


def test_deterministic_mode_replays_the_whole_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Assistant without a checkpoint must come to the same state as before."""
    monkeypatch.setattr(routing, "REPLAY_RECORDS", 5)
    world = joined(4000, **RUN, deterministic=True)
    assistant = world.assistants[0]
    for _ in range(30):
        world.serve(assistant, rate=1.1)
        world.train()
    assert world.core.state.the_run.log_records > 10
    world.lose(assistant.peer)
    assistant.restart(from_checkpoint=False)
    world.hello(assistant.peer)
    assert assistant.position == 0 and not assistant.records
    world.say(assistant.peer, assistant.credit())
    assert isinstance(assistant.records[0], LossRecord) and assistant.records[0].position == 0


def test_a_record_goes_out_with_the_event_that_logs_it() -> None:
    """Freshness: an Assistant with credit does not wait for the next event."""
    world = with_batches(1)
    report = LossReport(step=0, through=0, rank=0, losses=np.ones(4, np.float32))
    effects = world.say(world.boss.ranks[0], report)
    records = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, LossRecord)]
    assert [r.position for r in records] == [0]


def test_where_a_step_has_many_records_a_portion_is_a_step() -> None:
    """An Assistant that has once fallen behind would never catch up else, as each iteration brings a portion."""
    world = with_batches(2, world_size=100, batch_size=1)
    for step in (0, 1):
        for rank in range(100):
            say(world, step, [0.5], rank=rank)
    hello, peer = Hello(role="assistant", name="late", incarnation="1", dataset_id="data:1", n=400, slots=1), "late"
    world.core.handle(HelloReceived(hello, fresh=True), world.now)
    effects = world.core.handle(MessageReceived(peer, Credit(limit=1000, learned_through=-1)), world.now)
    assert [(e.start, e.stop) for e in effects if isinstance(e, SendRecords)] == [(0, 100)]


@pytest.mark.parametrize(("steps", "taken"), [(MOST_MERGED_STEPS, MOST_MERGED_STEPS), (MOST_MERGED_STEPS + 1, 0)])
def test_a_report_of_more_steps_than_a_boss_says_at_once_is_refused(steps: int, taken: int) -> None:
    """Each is drawn and logged before anybody else is heard: a hundred thousand in one message stop the run."""
    world = with_batches(1)
    told = OffPlanReport(number=0, through=steps - 1, ids=empty_i64(), losses=empty_f32())
    world.say(world.boss.ranks[0], told)
    assert world.core.state.the_run.off_plan_steps == taken
    assert counted(world, "reports_refused") == (taken == 0)
