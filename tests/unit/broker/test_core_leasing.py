"""Which window goes to whom, which selections count, and when a window passes unfiltered instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.leasing import nonsense
from protocol.messages import Credit, Selection
from tests.unit.broker.world import Peer, SimAssistant, World, joined, train_through

SMALL: dict[str, Any] = {"epochs": 3, "batch_size": 10, "window_size": 10, "stock_batches": 2}
SHARED = SMALL | {"stock_batches": 4}
"""Of two Assistants that join, the first gets windows 0 and 1, the second 2 and 3."""


def passed(world: World) -> dict[str, int]:
    """Windows that passed unfiltered, by reason."""
    prefix = "unfiltered_windows_"
    return {k.removeprefix(prefix): int(v) for k, v in world.core.state.the_run.counters.items() if prefix in k}


def counters(world: World, assistant: SimAssistant) -> dict[str, float]:
    return world.core.state.peers[assistant.peer.name].counters


def held(assistant: SimAssistant) -> list[int]:
    return [w.window for w in assistant.windows]


def join(world: World, name: str, *, slots: int = 2) -> SimAssistant:
    """One more Assistant."""
    assistant = SimAssistant(Peer(name, "assistant"))
    world.assistants.append(assistant)
    world.hello(assistant.peer, slots=slots)
    world.say(assistant.peer, assistant.credit())
    return assistant


# Leases


def test_windows_are_leased_to_fill_the_stock_and_no_more() -> None:
    """Before the Boss asks, the stock's aim of two batches is two windows' worth."""
    world = joined(100, assistants=3, **SMALL)
    assert sorted(w for a in world.assistants for w in held(a)) == [0, 1]


def test_a_lower_pass_rate_leases_more_windows() -> None:
    """When nearly all instances are shrunk, more candidates are needed for the same stock."""
    world = joined(4000, assistants=0, **SMALL)
    assistant = join(world, "many-slots", slots=64)
    assert len(held(assistant)) == 2
    for _ in range(15):
        world.say(assistant.peer, assistant.select(assistant.windows.pop(0), rate=0.0))
    assert len(held(assistant)) == 10, "0.9 ** 15 of a window of 10 is expected to pass"


def test_windows_go_to_the_assistant_with_the_fewest() -> None:
    """Two Assistants, and four windows to score."""
    world = joined(400, assistants=2, **SHARED)
    assert [len(held(a)) for a in world.assistants] == [2, 2]
    world.say(world.assistants[1].peer, world.assistants[1].select(world.assistants[1].windows.pop(0), rate=0.1))
    assert len(held(world.assistants[1])) == 2, "the free one gets the next"


def test_a_window_carries_the_epochs_order_and_the_place_in_the_run() -> None:
    """What an Assistant needs to score it."""
    world = joined(25, **SMALL)
    first, second = world.assistants[0].windows
    assert np.array_equal(first.ids, world.audit.window_ids(0)) and len(first.ids) == 10
    assert (first.window, first.attempt, first.epoch, first.learn_through) == (0, 1, 0, -2)
    assert first.progress == pytest.approx(1 / 9) and second.progress == pytest.approx(2 / 9)


def test_a_lease_that_runs_out_is_offered_to_another_and_its_holder_gets_nothing_new() -> None:
    """An Assistant hangs in a page fault; its windows must not come back to it at once."""
    world = joined(400, assistants=2, **SHARED)
    hung, other = world.assistants
    windows = held(hung)
    world.advance(4.0)
    world.serve(other, rate=0.5)
    world.advance(1.0)
    assert counters(world, hung)["leases_expired"] == 2
    world.serve(other, rate=0.5)
    assert {(w, 2) for w in windows} <= {(s.window, s.attempt) for s in other.scored}
    assert held(hung) == windows, "nothing more is leased to it"


def test_all_assistants_hung_counts_as_none() -> None:
    """Every Assistant is stopped by SIGSTOP; once a lease has run out the Boss no longer waits for them."""
    world = joined(400, assistants=2, **SHARED, prefetch_batches=8)
    world.advance(world.settings.lease_s)
    assert all(m.stalled for m in world.core.state.assistants())
    world.grant()
    assert world.boss.last_step == 7
    assert passed(world) == {"no_assistant": 8}


@pytest.mark.parametrize("sign", ["late selection", "learning", "the same credit again"])
def test_a_stalled_assistant_is_awake_again_once_it_shows_progress(sign: str) -> None:
    """SIGCONT: it answers the window of long ago, or says that it has learned. A bare sign of life is no progress."""
    world = joined(400, **SMALL)
    assistant = world.assistants[0]
    world.advance(world.settings.lease_s)
    train_through(world, 3)
    assert world.core.state.members[assistant.peer.name].stalled
    before = len(held(assistant))
    if sign == "late selection":
        world.say(assistant.peer, assistant.select(assistant.windows[0]))
        assert counters(world, assistant)["selections_late"] == 1
    else:
        if sign == "learning":
            assistant.learn()
            assert assistant.learned_through >= 0
        world.say(assistant.peer, assistant.credit())
    awake = sign != "the same credit again"
    assert world.core.state.members[assistant.peer.name].stalled is not awake
    assert (len(held(assistant)) > before) is awake


def test_a_window_taken_back_is_offered_again_even_if_the_stock_is_full() -> None:
    """The epoch cannot end without it: better scored now than passed whole later."""
    world = joined(4000, assistants=0, **SMALL)
    slow, quick = join(world, "slow", slots=1), join(world, "quick", slots=64)
    for rate in [0.0] * 10 + [1.0] * 20:
        if quick.windows:
            world.say(quick.peer, quick.select(quick.windows.pop(0), rate=rate))
    assert world.core.state.line_instances >= 20 and held(quick) == []
    assert held(slow) == [0]
    world.lose(slow.peer)
    assert held(quick) == [0]


def test_a_broker_that_restarts_gives_an_assistant_a_whole_lease_from_then() -> None:
    """Lease deadlines are of the old process's clock; the Assistant kept working meanwhile."""
    world = joined(100, **SMALL)
    assistant = world.assistants[0]
    world.now += 4.0
    world.crash()
    world.rejoin_all()
    world.advance(world.settings.lease_s - 0.1)
    assert "leases_expired" not in counters(world, assistant)
    world.say(assistant.peer, assistant.select(assistant.windows[0]))
    assert counters(world, assistant)["windows"] == 1


# Admission by staleness


def test_an_assistant_that_lags_gets_no_window_whose_selection_would_be_too_stale() -> None:
    """It joined when the Boss was far ahead: it learns first. Then it is leased windows again."""
    world = joined(4000, assistants=0, **SMALL, staleness_bound=20, prefetch_batches=2)
    train_through(world, 40)
    late = join(world, "late")
    assert held(late) == []
    while late.learned_through < 40:
        world.say(late.peer, late.credit())
        late.learn()
    world.say(late.peer, late.credit())
    assert held(late) != []


def test_nobody_waits_for_an_assistant_that_lags_too_far_to_be_given_a_window() -> None:
    """A new one in the place of one that was killed: the Boss has all that it asks for, and not just what is urgent."""
    world = joined(4000, assistants=0, **SMALL, staleness_bound=20, prefetch_batches=8)
    train_through(world, 40)
    late = join(world, "late")
    train_through(world, 60)
    assert held(late) == [] and passed(world).keys() == {"no_assistant"}


def test_a_selection_that_would_be_too_stale_when_it_is_trained_is_refused_and_its_window_is_free_again() -> None:
    """The Assistant was suspended between scoring and sending."""
    world = joined(4000, **SMALL, staleness_bound=20, prefetch_batches=2, lease_s=1000.0)
    assistant = world.assistants[0]
    window = assistant.windows.pop(0)
    train_through(world, 20)
    world.say(assistant.peer, assistant.select(window, learned_through=-1))
    assert counters(world, assistant)["selections_stale"] == 1
    assert "windows" not in counters(world, assistant)
    row = world.core.state.windows[window.window]
    assert row.state == "open" and window.window not in held(assistant)


# Which selections count


def test_the_first_accepted_selection_counts_and_never_changes_restarts_included() -> None:
    """The answer is sent twice because its acknowledgement was lost, and the broker was killed in between."""
    world = joined(400, **SMALL)
    assistant = world.assistants[0]
    window = assistant.windows.pop(0)
    world.say(assistant.peer, assistant.select(window))
    kept = world.core.state.windows[window.window].kept_ids.tolist()
    world.crash()
    world.rejoin_all()
    everything = np.full(len(window.ids), 0.9, np.float32)
    world.say(assistant.peer, assistant.select(window, kept_ids=window.ids, keep_probabilities=everything))
    assert world.core.state.windows[window.window].kept_ids.tolist() == kept
    assert counters(world, assistant)["selections_late"] == 1
    assert counters(world, assistant)["windows"] == 1


@pytest.mark.parametrize("fault", ["another's window", "another attempt", "a window of nobody"])
def test_a_selection_for_what_its_sender_does_not_hold_is_late(fault: str) -> None:
    """Answers to leases of long ago, and mistakes."""
    world = joined(400, assistants=2, **SHARED)
    assistant, other = world.assistants
    selection = {
        "another's window": assistant.select(other.windows[0]),
        "another attempt": assistant.select(assistant.windows[0], attempt=2),
        "a window of nobody": assistant.select(assistant.windows[0], window=10**9),
    }[fault]
    before = {k: v for k, v in world.rows.items() if k != ("peer", assistant.peer.name)}
    world.say(assistant.peer, selection)
    assert counters(world, assistant)["selections_late"] == 1
    assert {k: v for k, v in world.rows.items() if k != ("peer", assistant.peer.name)} == before


IDS = np.array([5, 3, 9, 7], np.int64)
HALF = np.full(4, 0.5, np.float32)


@pytest.mark.parametrize(
    ("kept", "keep", "fine"),
    [
        (IDS, HALF, True),
        (IDS[:0], HALF[:0], True),
        (IDS[[0, 2]], HALF[:2], True),
        (IDS, HALF * 2, True),
        (IDS[[2, 0]], HALF[:2], False),
        (IDS[[0, 0]], HALF[:2], False),
        (np.array([5, 4]), HALF[:2], False),
        (np.array([2**63 - 1]), HALF[:1], False),
        (np.array([-(2**63)]), HALF[:1], False),
        (IDS, HALF[:3], False),
        (np.tile(IDS, 2), np.tile(HALF, 2), False),
        (IDS, HALF * 0, False),
        (IDS, HALF * 2.1, False),
        (IDS, -HALF, False),
        (IDS, HALF * np.nan, False),
        (IDS, HALF * np.inf, False),
    ],
)
def test_only_a_windows_own_ids_in_its_order_with_probabilities_make_sense(
    kept: np.ndarray, keep: np.ndarray, fine: bool
) -> None:
    """What is told apart from nonsense."""
    said = Selection(window=0, attempt=1, kept_ids=kept, keep_probabilities=keep.astype(np.float32), learned_through=-1)
    assert (nonsense(said, IDS) == "") is fine


def test_nonsense_is_counted_frees_the_window_and_brings_its_sender_no_new_one() -> None:
    """A broken Assistant answers at once, and wrongly: it must not be asked again in an endless loop."""
    world = joined(400, assistants=2, **SHARED)
    broken, sound = world.assistants
    window = broken.windows.pop(0)
    world.say(broken.peer, broken.select(window, keep_probabilities=np.zeros(3, np.float32)))
    assert counters(world, broken)["selections_refused"] == 1
    assert held(broken) == [1], "nothing new"
    world.say(sound.peer, sound.select(sound.windows.pop(0)))
    assert window.window in held(sound)


def test_nobody_is_believed_to_have_learned_of_what_is_not_in_the_log() -> None:
    """ℓ from a broken Assistant would make stale selections look fresh."""
    world = joined(400, **SMALL)
    assistant = world.assistants[0]
    world.say(assistant.peer, Credit(limit=10, learned_through=10**6))
    assert world.core.state.members[assistant.peer.name].learned_through == -1
    train_through(world, 1)
    world.say(assistant.peer, assistant.select(assistant.windows.pop(0), learned_through=2))
    assert counters(world, assistant)["selections_refused"] == 1
    assert world.core.state.members[assistant.peer.name].learned_through == 1


def test_an_assistant_restored_from_an_older_state_is_leased_by_what_it_says_now() -> None:
    """Its selections say a lower ℓ than its last credit: believing the credit would lease it windows in a loop."""
    world = joined(4000, **SMALL, staleness_bound=20, prefetch_batches=2, lease_s=1000.0)
    assistant = world.assistants[0]
    for _ in range(10):
        train_through(world, world.boss.last_pulled + 3)
        assistant.learn()
        world.say(assistant.peer, assistant.credit())
    answers = 0
    while assistant.windows and answers < 50:
        answers += 1
        world.say(assistant.peer, assistant.select(assistant.windows.pop(0), learned_through=0))
    assert answers < 10


# When a window passes unfiltered


def test_a_hungry_boss_without_assistants_is_served_at_once() -> None:
    """No Assistant was started, or all were killed."""
    world = joined(400, assistants=0, **SMALL, prefetch_batches=8)
    world.grant()
    assert world.boss.last_step == 7 and passed(world) == {"no_assistant": 8}


def test_a_boss_with_next_to_nothing_in_hand_is_served_at_once_and_the_rest_waits_for_the_patience() -> None:
    """The start of a run: a few batches pass whole, then the Assistants get their chance, for patience_s."""
    world = joined(400, **SMALL, prefetch_batches=8)
    world.grant()
    assert passed(world) == {"urgent": 3}
    assert world.core.next_deadline() == world.now + world.settings.patience_s
    world.advance(world.settings.patience_s - 0.01)
    assert world.boss.last_step == 2
    world.advance(0.01)
    assert passed(world) == {"urgent": 3, "patience": 5}
    assert world.boss.last_step == 7


def test_selections_in_time_keep_the_patience_from_running_out() -> None:
    """The Assistants answer quickly enough: nothing but the first few passes whole."""
    world = joined(400, assistants=2, **SMALL, prefetch_batches=8)
    world.grant()
    for _ in range(30):
        world.advance(0.02)
        for assistant in world.assistants:
            world.serve(assistant, rate=0.8)
    assert passed(world) == {"urgent": 3}
    assert world.boss.last_step == 7


def test_the_uniform_policy_passes_everything_and_leases_nothing() -> None:
    """The comparison run."""
    world = joined(100, **SMALL, policy="uniform")
    world.grant()
    assert world.assistants[0].windows == []
    assert passed(world) == {"uniform": 8}


def test_where_nothing_else_is_left_a_leased_window_passes_over_its_holders_head() -> None:
    """The last window of an epoch is with a slow Assistant: its answer, when it comes, is late."""
    world = joined(20, epochs=1, batch_size=10, window_size=10, stock_batches=2, prefetch_batches=4)
    assistant = world.assistants[0]
    assert held(assistant) == [0, 1]
    world.grant()
    assert world.boss.last_step == 1
    assert counters(world, assistant)["leases_overtaken"] == 2
    world.say(assistant.peer, assistant.select(assistant.windows[0]))
    assert counters(world, assistant)["selections_late"] == 1


def test_a_window_that_nobody_holds_passes_before_one_that_is_being_scored() -> None:
    """Passing a leased window wastes the Assistant's work."""
    world = joined(400, **SMALL, prefetch_batches=1)
    assert held(world.assistants[0]) == [0, 1]
    world.grant()
    assert world.audit.batches[0].segments[0].window == 2


# Deterministic mode


def test_in_deterministic_mode_the_boss_waits_and_no_clock_is_looked_at() -> None:
    """An Assistant hangs for an hour: the batches must be the same as yesterday, so there are none."""
    world = joined(100, **SMALL, deterministic=True)
    world.grant()
    world.advance(3600.0)
    assert world.boss.last_step == -1
    assert counters(world, world.assistants[0]).keys() == {"starts"}
    assert world.core.next_deadline() is None


def test_in_deterministic_mode_windows_go_by_turns_and_say_what_to_learn_first() -> None:
    """Window j to Assistant j mod A, one at a time; ℓ lies a fixed depth before the first step that it can serve."""
    world = joined(400, assistants=2, **SMALL, deterministic=True, prefetch_batches=2)
    depth = 2 + 2 + 1
    for window in range(30):
        world.train()
        asked = world.assistants[window % 2]
        assert held(asked) == [window] and held(world.assistants[1 - window % 2]) == []
        assert asked.windows[0].learn_through == max(-1, window - depth)
        assistant = asked.windows.pop(0)
        asked.learn(through=assistant.learn_through)
        world.say(asked.peer, asked.select(assistant, rate=1.1))
        for other in world.assistants:
            world.say(other.peer, other.credit())
    assert passed(world) == {}


@pytest.mark.parametrize("difference", [-1, 1])
def test_in_deterministic_mode_a_selection_by_other_knowledge_than_ordered_is_refused(difference: int) -> None:
    """It would be accepted in one run and not be the same in the next."""
    world = joined(400, **SMALL, deterministic=True, prefetch_batches=2)
    assistant = world.assistants[0]
    while (ordered := assistant.windows[0].learn_through) < 3:
        world.serve(assistant, rate=1.1)
        world.train()
    world.say(assistant.peer, assistant.select(assistant.windows[0], learned_through=ordered + difference))
    assert counters(world, assistant)["selections_refused"] == 1
    assert [w.attempt for w in assistant.windows] == [1, 2], "it is asked again"


def test_in_deterministic_mode_a_window_waits_for_the_assistant_whose_turn_it_is() -> None:
    """Assistant 0 is away; Assistant 1 must not take its turn."""
    world = joined(100, assistants=2, **SMALL, deterministic=True, prefetch_batches=2)
    first, second = world.assistants
    world.lose(first.peer)
    assert held(second) == []
    world.hello(first.peer)
    assert [(w.window, w.attempt) for w in first.windows] == [(0, 1), (0, 2)]
