"""A broker that restarts from its rows, and roles that restart, are told what they must hold, and nothing is lost."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from broker.core import RETURN_S, BrokerCore
from broker.effects import Effect, HelloReceived, Send
from broker.rows import decode_row, encode_row
from protocol.messages import Batch, EpochEnd, EpochResult, Goodbye, Hello, Stop
from tests.unit.broker.world import World, joined, train_through

RUN: dict[str, Any] = {"epochs": 3, "batch_size": 10, "window_size": 10, "prefetch_batches": 3}


def told(effects: list[Effect], name: str = "boss-0") -> list[str]:
    """What the Boss is told, in short."""
    said = []
    for effect in effects:
        if isinstance(effect, Send) and effect.name == name:
            match effect.message:
                case Batch(step=step):
                    said.append(f"batch {step}")
                case EpochEnd(epoch=epoch, after_step=after, last=last):
                    said.append(f"end {epoch} after {after}{' last' if last else ''}")
                case Stop(reason=reason):
                    said.append(f"stop {reason}")
    return said


@pytest.mark.parametrize("lost", ["uncommitted", "unsent"])
def test_a_boss_goes_on_as_if_nothing_had_been_when_the_broker_is_killed(
    lost: Literal["uncommitted", "unsent"],
) -> None:
    """kill -9 of the broker in mid-run, before a commit or after it; the run ends as it would have ended."""
    world = joined(100, assistants=0, **RUN)
    train_through(world, 4)
    world.holding = True
    world.grant()
    world.crash(lost)
    world.rejoin_all()
    assert world.boss.last_step == (7 if lost == "unsent" else 4)
    world.finish()
    assert len(world.audit.batches) == 30


def test_a_boss_is_told_again_what_it_has_not_reported_with_the_epochs_ends_in_their_places() -> None:
    """All that was on its way to the Boss when the broker died is told once more, in the order of the stream."""
    world = joined(20, assistants=0, **RUN)
    train_through(world, 0)
    world.grant()
    while world.pull():
        pass
    assert world.boss.last_step == 3
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == ["batch 1", "end 0 after 1", "batch 2", "batch 3", "end 1 after 3"]
    assert told(world.hello(world.boss.ranks[0], fresh=False)) == []


def test_an_epochs_end_that_may_not_have_arrived_is_told_again_though_its_steps_are_all_reported() -> None:
    """The broker dies between the commit of the epoch's end and the sending: the Boss would wait for ever."""
    world = joined(20, assistants=0, **RUN)
    train_through(world, 1)
    assert world.audit.ended == {0: 1}
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == ["end 0 after 1"]
    train_through(world, 2)
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == [], "it has reported step 2, so it has heard what came before it"


def test_an_evaluation_recorded_ahead_of_its_epochs_end_does_not_silence_that_end() -> None:
    """A script evaluates before it has drained the epoch."""
    world = joined(20, assistants=0, **RUN)
    train_through(world, 1)
    result = EpochResult(
        epoch=0,
        step=1,
        metric_name="a",
        metric_value=0.5,
        boss_instances=1,
        train_s=1.0,
        exposed_wait_s=0.0,
        wall_s=1.0,
    )
    world.say(world.boss.ranks[0], result)
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == ["end 0 after 1"]


def test_the_ends_of_several_empty_epochs_are_all_told_again() -> None:
    """Three epochs of which nothing was kept end after the same step: -1."""
    world = joined(10, **RUN | {"stock_batches": 4})
    for _ in range(3):
        world.serve(world.assistants[0], rate=0.0)
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == ["end 0 after -1", "end 1 after -1", "end 2 after -1 last"]


def test_rank_0_hears_only_what_it_has_not_reported_itself_though_another_rank_lags() -> None:
    """The epochs' ends before rank 0's last report are behind it; batches that wait for rank 1 are told again."""
    world = joined(40, assistants=0, **RUN | {"world_size": 2})
    world.grant()
    while world.pull():
        pass
    for _ in range(3):
        world.report(0)
    assert world.audit.ended == {0: 1}
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == ["batch 0", "batch 1", "batch 2"]


def test_a_boss_process_that_is_started_anew_is_served_from_the_first_step_that_is_not_reported() -> None:
    """Its own count begins at -1 while the run is at step 21: its credit counts from what it was told."""
    world = joined(100, assistants=0, **RUN)
    train_through(world, 20)
    world.lose(world.boss.ranks[0])
    world.boss.restart()
    world.hello(world.boss.ranks[0])
    world.grant()
    assert [item.step for item in world.boss.items if isinstance(item, Batch)] == [21, 22, 23]
    world.finish()


def test_a_boss_process_that_is_started_anew_trains_again_what_was_not_reported() -> None:
    """Batches 5 to 7 were with the process that died."""
    world = joined(100, assistants=0, **RUN)
    train_through(world, 4)
    world.grant()
    world.lose(world.boss.ranks[0])
    world.boss.restart()
    assert told(world.hello(world.boss.ranks[0])) == ["batch 5", "batch 6", "batch 7"]
    world.grant()
    assert world.boss.last_step == 7, "three batches are in hand"
    world.pull()
    world.grant()
    assert world.boss.last_step == 8
    world.finish()


def test_a_restarted_broker_offers_what_was_leased_to_whoever_comes_if_its_holder_does_not() -> None:
    """Broker and Assistant died together; only the broker's host came back."""
    world = joined(100, **RUN)
    held = [w.window for w in world.assistants[0].windows]
    assert held
    world.crash()
    world.hello(world.boss.ranks[0])
    world.advance(world.settings.lease_s)
    assert [world.core.state.windows[w].state for w in held] == ["open"] * len(held)


def test_rows_in_any_order_make_the_same_core() -> None:
    """SQLite promises no order."""
    world = joined(100, assistants=2, **RUN)
    world.serve(world.assistants[0])
    world.grant()
    rows = [(kind, decode_row(kind, raw)) for (kind, _), raw in world.rows.items()]
    messages = []
    for order in (rows, rows[::-1]):
        copies = [(kind, decode_row(kind, encode_row(row))) for kind, row in order]
        core = BrokerCore.from_rows("", copies)
        core.rebase_leases(0.0)
        hello = Hello(role="boss", name="boss-0", incarnation="new", dataset_id="data:1", n=100)
        messages.append(repr([e for e in core.handle(HelloReceived(hello, fresh=True), 1.0) if isinstance(e, Send)]))
        assert list(core.state.line) == list(world.core.state.line)
    assert messages[0] == messages[1]


def test_a_row_of_an_unknown_kind_is_refused() -> None:
    """The store of a later version."""
    with pytest.raises(msgspec.ValidationError, match="unknown kind of row later"):
        BrokerCore.from_rows("", [("later", object())])  # type: ignore[list-item]


def test_after_the_end_a_boss_that_comes_back_is_told_the_last_end_and_the_stop() -> None:
    """The Boss's host lost the network just before the run's end."""
    world = joined(10, assistants=0, **RUN | {"epochs": 1})
    world.grant()
    world.crash()
    assert told(world.hello(world.boss.ranks[0])) == ["batch 0", "end 0 after 0 last"]
    world.finish()


def test_a_world_without_faults_is_the_same_with_a_crash_after_every_event() -> None:
    """Every event is the last one of its broker; without Assistants the outcome does not depend on time."""

    def run(*, crashing: bool) -> World:
        world = joined(50, assistants=0, **RUN | {"world_size": 2, "batch_size": 4})
        while not world.boss.finished:
            world.pull()
            for rank in (0, 1):
                for _ in world.boss.reportable(rank)[:1]:
                    world.report(rank)
                    if crashing:
                        world.crash("unsent")
                        world.rejoin_all()
            world.grant()
        world.finish()
        return world

    once, often = run(crashing=False), run(crashing=True)
    assert [b.ids.tolist() for b in once.audit.batches] == [b.ids.tolist() for b in often.audit.batches]


def killed_just_before_its_end() -> World:
    """The Boss is back and says Goodbye before the Assistant has come back."""
    world = joined(10, **RUN | {"epochs": 1})
    world.crash()
    world.hello(world.boss.ranks[0])
    world.say(world.boss.ranks[0], Goodbye(reason="finished"))
    world.boss.ranks[0].connected = False
    return world


def test_an_assistant_that_comes_back_just_after_the_end_is_told_so() -> None:
    """It would look for its broker for ten minutes."""
    world = killed_just_before_its_end()
    assert not world.ended
    assistant = world.assistants[0].peer
    assert told(world.hello(assistant), assistant.name) == ["stop finished"]
    world.say(assistant, Goodbye(reason="finished"))
    assert world.ended == "finished"
    world.crash()
    assert not world.core.state.returning, "who has said Goodbye is not waited for"


def test_an_assistant_that_does_not_come_back_keeps_a_restarted_broker_for_some_seconds_only() -> None:
    world = killed_just_before_its_end()
    world.advance(0.9 * RETURN_S)
    assert not world.ended
    world.advance(0.1 * RETURN_S)
    assert world.ended == "finished"
