"""Who may join, what a role that may not is told, and what everybody hears when the run ends."""

from __future__ import annotations

from typing import Any

import pytest

from broker.admission import MAX_PEERS
from broker.core import MAX_SLOTS
from broker.effects import Admit, HelloReceived, Refuse, RunEnded, Send, StopRequested
from protocol.messages import PROTOCOL_VERSION, Batch, Goodbye, Hello, LossRecord, Stop, Window
from protocol.settings import RunSettings
from tests.unit.broker.world import Peer, SimAssistant, World, joined, train_through

RUN = RunSettings(epochs=2, batch_size=10, world_size=2, window_size=10)


def world(n: int = 100, **changes: Any) -> World:
    """A world in which only Boss rank 0 has joined."""
    made = World(RunSettings(epochs=2, batch_size=10, window_size=10, **changes), n)
    made.hello(made.boss.ranks[0])
    return made


def refusal(world: World, peer: Peer, **changes: Any) -> Refuse:
    """The refusal of a Hello, and that nothing else came of it."""
    before = dict(world.rows)
    effects = world.hello(peer, **changes)
    refusals = [e for e in effects if isinstance(e, Refuse)]
    assert len(refusals) == 1, effects
    assert world.rows == before
    return refusals[0]


def test_an_assistant_that_comes_before_any_boss_is_asked_to_wait() -> None:
    """All roles are started at once, and the Assistant is the quickest."""
    early = World(RUN, 100)
    refused = refusal(early, early.assistants[0].peer)
    assert (refused.code, refused.remedy) == ("wait", "start a Boss")


def test_an_assistant_waits_until_a_boss_has_resumed_the_run() -> None:
    """The broker was started to go on with a run: let in before, it would be thrown out once the run is taken back."""
    resumed = world()
    train_through(resumed, 3)
    resumed.crash()
    resumed.core.state.awaits_boss = True
    refused = refusal(resumed, resumed.assistants[0].peer)
    assert (refused.code, refused.remedy) == ("wait", "start a Boss with --resume")
    resumed.rejoin_all()
    assert resumed.assistants[0].peer.connected


@pytest.mark.parametrize(("has_come", "ended"), [(False, "finished"), (True, "stopped")])
def test_a_run_that_was_opened_again_has_ended_as_before_until_a_boss_has_come(has_come: bool, ended: str) -> None:
    resumed = world()
    train_through(resumed, 3)
    resumed.crash()
    resumed.core.state.awaits_boss, resumed.core.state.ended_before = True, "finished"
    if has_come:
        resumed.rejoin_all()
    resumed.core.handle(StopRequested("stopped"), 0.0)
    assert resumed.core.state.the_run.ended == ended


def test_a_boss_without_settings_cannot_start_a_run() -> None:
    """Rank 1's own client leaves the settings to rank 0, and comes first."""
    early = World(RUN, 100)
    assert refusal(early, early.boss.ranks[1], settings=None).code == "malformed"


def test_the_first_boss_fixes_the_run_and_everybody_else_is_admitted_to_it() -> None:
    """The ordinary start."""
    made = World(RUN, 100, assistants=2)
    made.rejoin_all()
    assert made.core.state.the_run.settings == RUN
    assert [p.connected for p in made.peers.values()] == [True] * 4
    assert [a.peer.refusals for a in made.assistants] == [[], []]


@pytest.mark.parametrize("protocol", [0, PROTOCOL_VERSION + 1])
def test_another_protocol_version_is_refused_with_both_versions_named(protocol: int) -> None:
    """One host was upgraded and the other was not."""
    made = world()
    refused = refusal(made, made.assistants[0].peer, protocol=protocol)
    assert refused.code == "version"
    assert f"version {protocol}" in refused.reason and f"to {PROTOCOL_VERSION}" in refused.reason
    assert "same autoassist version" in refused.remedy


@pytest.mark.parametrize("changes", [{"dataset_id": "data:2"}, {"n": 99}])
def test_another_data_set_is_refused_with_both_named(changes: dict[str, Any]) -> None:
    """The Assistant's host holds last month's copy of the data."""
    made = world()
    refused = refusal(made, made.assistants[0].peer, **changes)
    assert refused.code == "dataset"
    told = {"dataset_id": "data:1", "n": 100} | changes
    assert f"{told['dataset_id']} (n={told['n']})" in refused.reason and "data:1 (n=100)" in refused.reason
    assert refused.remedy == "give every role the same data"


def test_other_settings_are_refused_with_the_difference_named() -> None:
    """Rank 1 was started from an older script."""
    made = World(RUN, 100)
    made.hello(made.boss.ranks[0])
    other = RunSettings(epochs=2, batch_size=20, world_size=2, window_size=10)
    refused = refusal(made, made.boss.ranks[1], settings=other)
    assert refused.code == "settings"
    assert "batch_size: 10 here, 20 there" in refused.reason and "epochs" not in refused.reason
    assert "--run-dir" in refused.remedy


def test_a_batch_larger_than_the_data_set_is_refused_with_the_numbers_named() -> None:
    """Somebody tries the script on ten instances first."""
    made = World(RUN, 19)
    refused = refusal(made, made.boss.ranks[0])
    assert refused.code == "settings"
    assert "batch_size=10" in refused.reason and "world_size=2" in refused.reason and "19" in refused.reason
    assert refused.remedy == "lower --batch-size"
    assert made.core.state.run is None


def test_a_new_boss_with_fresh_weights_cannot_go_on_with_a_run_that_was_trained() -> None:
    """The script crashed and is simply started again: the run's end would look like success."""
    made = joined(100, assistants=0)
    train_through(made, 3)
    rank_0 = made.boss.ranks[0]
    made.lose(rank_0)
    refused = refusal(made, rank_0, incarnation="new")
    assert refused.code == "restore"
    assert f"trained {made.core.state.the_run.log_step} steps" in refused.reason and "fresh weights" in refused.reason
    assert "--resume" in refused.remedy and "--run-dir" in refused.remedy


def test_a_boss_that_died_before_it_trained_anything_is_simply_started_again() -> None:
    """Nothing was learned, so nothing is lost."""
    made = joined(100)
    made.grant()
    made.lose(made.boss.ranks[0])
    assert [e for e in made.hello(made.boss.ranks[0], incarnation="new") if isinstance(e, Admit)]


@pytest.mark.parametrize("who", ["assistant", "rank 1"])
def test_only_the_boss_of_rank_0_may_take_a_run_back(who: str) -> None:
    """An Assistant's Hello, or a forged one, would undo the training of days."""
    made = World(RUN, 100, assistants=1)
    made.hello(made.boss.ranks[0])
    peer = made.assistants[0].peer if who == "assistant" else made.boss.ranks[1]
    refused = refusal(made, peer, restore_step=-1)
    assert refused.code == "malformed" and "only the Boss of rank 0" in refused.reason


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_role_of_another_run_is_told_that_its_run_is_not_here(has_begun: bool) -> None:
    """A broker with another --run-dir was started on the port: a Boss must neither join its run nor begin one."""
    made = World(RUN, 100)
    if has_begun:
        made.hello(made.boss.ranks[0])
    refused = refusal(made, made.boss.ranks[0], run_id="of-last-week")
    assert refused.code == "elsewhere"
    assert "of-last" in refused.reason and "--run-dir" in refused.remedy


def test_an_assistant_without_a_data_set_takes_the_run_s() -> None:
    """A script of one's own has no Workload from which an Assistant could know the data set."""
    made = World(RUN, 100, assistants=1)
    made.hello(made.boss.ranks[0])
    effects = made.hello(made.assistants[0].peer, dataset_id="", n=0)
    assert [e for e in effects if isinstance(e, Admit)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_an_assistant_has_the_number_of_its_name_whatever_the_order_of_joining(order: tuple[int, ...]) -> None:
    """In deterministic mode the number decides who gets which window, and the export names who selected."""
    made = World(RunSettings(epochs=2, batch_size=10, assistants=3), 100, assistants=3)
    made.hello(made.boss.ranks[0])
    for number in order:
        made.hello(made.assistants[number].peer)
    rows = made.core.state.peers
    assert [rows[f"assistant-{i}"].index for i in range(3)] == [0, 1, 2]


def test_a_second_boss_of_the_same_name_is_refused_while_the_first_is_alive() -> None:
    """The script is started again in another terminal, and the first one still runs."""
    made = world()
    refused = refusal(made, made.boss.ranks[0], incarnation="other", alive_elsewhere=True)
    assert refused.code == "duplicate"
    assert "boss-0" in refused.reason and "stop it first" in refused.remedy


def test_a_second_boss_of_the_same_rank_is_refused_under_another_name_too() -> None:
    """Two batches for one step would be trained by two networks."""
    made = world()
    refused = refusal(made, Peer("boss-zero", "boss"))
    assert refused.code == "duplicate"
    assert "boss-0" in refused.reason and "rank 0" in refused.reason


def test_a_second_assistant_of_the_same_name_is_told_to_take_another() -> None:
    """Two hosts start an Assistant with the default name."""
    made = joined(100)
    refused = refusal(made, made.assistants[0].peer, incarnation="other", alive_elsewhere=True)
    assert refused.code == "taken"
    assert "--name" in refused.remedy


def test_a_name_cannot_change_its_role() -> None:
    """An Assistant calls itself boss-0, by mistake or not."""
    made = world()
    refused = refusal(made, Peer("boss-0", "assistant"))
    assert refused.code == "duplicate"
    assert "boss-0 is a boss of this run" in refused.reason


def test_a_rank_beyond_the_world_size_is_refused_whether_it_comes_first_or_later() -> None:
    """torchrun was given one process too many."""
    made = World(RUN, 100)
    for _ in range(2):
        refused = refusal(made, Peer("boss-2", "boss", rank=2))
        assert refused.code == "settings"
        assert "rank=2" in refused.reason and "world_size=2" in refused.reason
        made.hello(made.boss.ranks[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 101),
        ("name", "a\n\x1b[31mroot"),
        ("incarnation", ""),
        ("n", 0),
        ("n", -5),
        ("n", 2**63),
        ("rank", -1),
        ("slots", -1),
        ("position", -1),
    ],
)
def test_a_hello_with_a_value_out_of_range_is_refused_with_the_field_named(field: str, value: Any) -> None:
    """A port scanner, a bug, or an attacker says Hello; first of all, or in the middle of a run."""
    for made in (World(RUN, 100), joined(100, batch_size=10)):
        effects = made.core.handle(
            HelloReceived(
                Hello(
                    **(
                        {"role": "boss", "name": "b", "incarnation": "i", "dataset_id": "data:1", "n": 100}
                        | {"settings": RUN, field: value}
                    )
                ),
                fresh=True,
            ),
            made.now,
        )
        assert [e.code for e in effects if isinstance(e, Refuse)] == ["malformed"]
        reason = next(e.reason for e in effects if isinstance(e, Refuse))
        assert field in reason and len(reason) < 500
        assert not any(isinstance(e, Admit) for e in effects)


def test_a_run_remembers_no_more_names_than_it_should() -> None:
    """Pods with random names come and go for months, or somebody says Hello in a loop."""
    made = world()
    for number in range(MAX_PEERS + 5):
        hello = Hello(role="assistant", name=f"pod-{number}", incarnation="1", dataset_id="data:1", n=100)
        effects = made.core.handle(HelloReceived(hello, fresh=True), made.now)
        made.core.state.leave(f"pod-{number}")
    refused = next(e for e in effects if isinstance(e, Refuse))
    assert str(MAX_PEERS) in refused.reason and refused.remedy == "use a name again"
    assert len(made.core.state.peers) == MAX_PEERS
    known = Hello(role="assistant", name="pod-7", incarnation="2", dataset_id="data:1", n=100)
    assert any(isinstance(e, Admit) for e in made.core.handle(HelloReceived(known, fresh=True), made.now))


def test_an_assistant_holds_no_more_windows_than_is_sensible_whatever_it_asks_for() -> None:
    """slots=10**9 in a configuration file."""
    made = World(RunSettings(epochs=2, batch_size=1, window_size=1, stock_batches=1000, staleness_bound=2000), 500)
    made.hello(made.boss.ranks[0])
    made.hello(made.assistants[0].peer, slots=10**9)
    assert len(made.assistants[0].windows) == MAX_SLOTS


# Coming back


def leased(assistant: SimAssistant) -> list[int]:
    return [w.window for w in assistant.windows]


def test_the_windows_of_an_assistant_that_starts_anew_go_to_others_and_its_old_answer_is_late() -> None:
    """kill -9 of an Assistant; its supervisor starts it again."""
    made = joined(100, assistants=2, epochs=2, batch_size=10, window_size=10, stock_batches=2)
    first, second = made.assistants
    held = first.windows[:]
    assert held
    made.lose(first.peer)
    assert set(leased(second)) >= {w.window for w in held}
    answer = first.select(held[0])
    first.restart(from_checkpoint=False)
    made.hello(first.peer)
    made.say(first.peer, answer)
    counters = made.core.state.peers[first.peer.name].counters
    assert counters["selections_late"] == 1 and counters["starts"] == 2 and "windows" not in counters


def test_a_new_process_does_not_inherit_the_windows_of_the_one_before_it() -> None:
    """It is back before the broker has missed it: an answer of the old process must not count for the new lease."""
    made = joined(100, epochs=2, batch_size=10, window_size=10, stock_batches=2)
    assistant = made.assistants[0]
    old = assistant.windows[0]
    answer = assistant.select(old)
    assistant.restart(from_checkpoint=False)
    made.hello(assistant.peer)
    assert [(w.window, w.attempt) for w in assistant.windows] == [(0, 2), (1, 2)]
    made.say(assistant.peer, answer)
    assert made.core.state.peers[assistant.peer.name].counters["selections_late"] == 1


def test_an_assistant_whose_messages_were_lost_is_told_its_leases_again() -> None:
    """The network breaks for a moment: the same process says Hello on a new stream."""
    made = joined(100, epochs=2, batch_size=10, window_size=10, stock_batches=2)
    assistant = made.assistants[0]
    told = [(w.window, w.attempt) for w in assistant.windows]
    assert told
    effects = made.hello(assistant.peer)
    again = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Window)]
    assert [(w.window, w.attempt) for w in again] == told


def test_a_role_that_takes_up_its_stream_is_told_nothing_twice() -> None:
    """A gap in the numbering: Hello is said again, and the hub repeats what was not acknowledged."""
    made = joined(100, epochs=2, batch_size=10, window_size=10)
    made.grant()
    for peer in made.peers.values():
        effects = made.hello(peer, fresh=False)
        assert [type(e) for e in effects if isinstance(e, (Send, Admit, Refuse))] == [Admit]


def test_no_two_assistants_have_one_number_whoever_left_and_came_back() -> None:
    """In deterministic mode a number that nobody has would leave its windows unselected for ever."""
    made = joined(100, assistants=3, epochs=2, batch_size=10)
    rows = made.core.state.peers
    one, two, three = (a.peer for a in made.assistants)
    assert [rows[p.name].index for p in (one, two, three)] == [0, 1, 2]
    made.lose(one)
    newcomer = Peer("newcomer", "assistant")
    made.assistants.append(SimAssistant(newcomer))
    made.hello(newcomer)
    assert rows["newcomer"].index == 0
    made.hello(one)
    assert sorted(rows[p.name].index for p in (one, two, three, newcomer)) == [0, 1, 2, 3]
    made.lose(two)
    two.restart()
    made.hello(two)
    assert rows[two.name].index == 1, "a number that is free is taken again"


def test_the_broker_says_what_of_a_role_is_committed_and_forgets_it_for_a_new_process() -> None:
    """A reconnecting process sends the rest again; a new one counts from the beginning."""
    made = joined(100, epochs=2, batch_size=10)
    peer = made.assistants[0].peer
    made.say(peer, made.assistants[0].select(made.assistants[0].windows[0]))
    admitted = [e for e in made.hello(peer, fresh=False) if isinstance(e, Admit)]
    assert [e.committed for e in admitted] == [1]
    peer.restart()
    assert [e.committed for e in made.hello(peer) if isinstance(e, Admit)] == [0]


# The end


def test_the_goodbye_of_the_boss_ends_the_run_for_all() -> None:
    """The training script returns; Assistants and broker leave by themselves."""
    made = joined(100, assistants=2, epochs=2, batch_size=10)
    effects = made.say(made.boss.ranks[0], Goodbye(reason="finished", figures={"wall_s": 2.0}))
    assert [e.name for e in effects if isinstance(e, Send)] == ["assistant-0", "assistant-1"]
    assert [a.peer.stopped for a in made.assistants] == ["finished", "finished"]
    assert made.core.state.the_run.boss_figures == {"wall_s": 2.0}
    made.say(made.assistants[0].peer, Goodbye(reason="finished", figures={"learned": 3.0}))
    assert made.ended == ""
    made.say(made.assistants[1].peer, Goodbye(reason="finished"))
    assert made.ended == "finished"
    assert made.core.state.peers["assistant-0"].figures == {"learned": 3.0}


def test_the_goodbye_of_another_rank_does_not_end_the_run() -> None:
    """Rank 1 is through with its reports a moment before rank 0."""
    made = World(RUN, 100)
    made.rejoin_all()
    made.say(made.boss.ranks[1], Goodbye(reason="finished"))
    assert not made.core.state.the_run.ended


def test_a_stop_is_told_to_all_and_to_whoever_joins_later_and_nothing_is_decided_any_more() -> None:
    """Ctrl-C at the broker while an Assistant is away."""
    made = joined(100, assistants=2, epochs=2, batch_size=10)
    made.lose(made.assistants[1].peer)
    made.handle(StopRequested("stopped", "SIGTERM"))
    assert made.boss.ranks[0].stopped == made.assistants[0].peer.stopped == "stopped"
    made.hello(made.assistants[1].peer)
    assert made.assistants[1].peer.stopped == "stopped"
    effects = made.say(made.boss.ranks[0], made.boss.credit())
    assert not any(isinstance(e, Send) and isinstance(e.message, (Batch, Window, LossRecord)) for e in effects)
    assert made.core.next_deadline() is None
    made.handle(StopRequested("failed"))
    assert made.core.state.the_run.ended == "stopped", "the first reason stands"


def test_a_stop_before_any_boss_has_come_ends_nothing() -> None:
    """Ctrl-C at a broker that waits."""
    made = World(RUN, 100)
    effects = made.handle(StopRequested())
    assert effects == [] and made.core.state.run is None


def test_whoever_vanishes_after_the_end_is_not_waited_for() -> None:
    """An Assistant is killed while it says Goodbye."""
    made = joined(100, epochs=2, batch_size=10)
    made.say(made.boss.ranks[0], Goodbye(reason="failed"))
    made.lose(made.assistants[0].peer)
    assert made.ended == "failed"
    assert [e for e in made.handle(StopRequested()) if isinstance(e, RunEnded)] == [RunEnded("failed")]
    assert not any(isinstance(e, Send) and isinstance(e.message, Stop) for e in made.handle(StopRequested()))
