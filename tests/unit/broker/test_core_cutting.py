"""How batches are cut from the stock, how epochs end, and what becomes of a selection that has become too stale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol.messages import Batch, Goodbye
from tests.unit.broker.world import Peer, SimAssistant, World, joined, train_through


def finished(n: int, *, assistants: int = 0, **settings: Any) -> World:
    """A run without faults, brought to its end and audited."""
    world = joined(n, assistants=assistants, **settings)
    world.finish()
    return world


def sizes(world: World) -> list[int]:
    return [len(b.ids) - b.padding for b in world.audit.batches]


def origins(batch: Batch) -> list[tuple[int, int]]:
    """(epoch, count) of a batch's segments, neighbours of one epoch together."""
    found: dict[int, int] = {}
    for segment in batch.segments:
        found[segment.epoch] = found.get(segment.epoch, 0) + segment.count
    return list(found.items())


# Steps and epochs


def test_an_epochs_remainder_opens_the_next_epochs_first_batch_and_keeps_its_epoch() -> None:
    """25 instances by tens: the third batch takes five of each epoch, so no step is small but the run's last."""
    world = finished(25, epochs=2, batch_size=10, window_size=10)
    assert sizes(world) == [10, 10, 10, 10, 10]
    assert [origins(b) for b in world.audit.batches] == [[(0, 10)], [(0, 10)], [(0, 5), (1, 5)], [(1, 10)], [(1, 10)]]
    assert [b.epoch for b in world.audit.batches] == [0, 0, 1, 1, 1]
    assert world.audit.ended == {0: 1, 1: 4}


def test_only_the_last_step_of_the_run_may_be_short() -> None:
    """The end of the last epoch has nothing to flow into."""
    assert sizes(finished(25, epochs=3, batch_size=10, window_size=10)) == [10] * 7 + [5]


@pytest.mark.parametrize(
    ("n", "counts", "padding"), [(14, [2, 2, 1, 1], 0), (11, [1, 1, 1, 1], 1), (9, [1, 1, 1, 1], 3), (12, [1] * 4, 0)]
)
def test_the_last_step_is_split_over_all_ranks_with_padding_only_where_one_would_go_without(
    n: int, counts: list[int], padding: int
) -> None:
    """DDP hangs if a rank has no batch: a rank without an instance repeats one, at weight 0."""
    world = finished(n, epochs=1, batch_size=2, world_size=4, window_size=8)
    last = world.audit.batches[-1]
    assert (last.rank_counts, last.padding) == (counts, padding)
    assert world.core.state.the_run.counters.get("padded_instances", 0) == padding
    assert world.core.state.the_run.instances_trained == n
    logged = [len(record.ids) for record in world.losses[-4:]]
    assert sum(logged) == n - 8, "nobody learns from padding"


def test_a_budget_of_instances_is_spent_to_the_last_one() -> None:
    """boss_instances=25 by tens, in an epoch of 100."""
    world = finished(100, boss_instances=25, batch_size=10, window_size=10)
    assert sizes(world) == [10, 10, 5]
    assert world.audit.ended == {0: 2}
    assert [b.progress for b in world.audit.batches] == [0.4, 0.8, 1.0]


def test_a_budget_of_instances_runs_through_as_many_epochs_as_it_takes() -> None:
    """Half of each epoch is shrunk, so the budget of 50 lasts for longer than 50 offers."""
    world = finished(20, assistants=1, boss_instances=50, batch_size=5, window_size=5, stock_batches=4)
    assert sum(sizes(world)) == 50
    offered = sum(row.offered for row in world.core.state.epochs.values())
    assert offered > 50 and len(world.audit.ended) > 2


def test_progress_is_the_share_of_the_offers_where_the_budget_is_in_epochs() -> None:
    """Schedules are driven by it."""
    world = finished(30, epochs=2, batch_size=10, window_size=10, policy="uniform")
    assert [b.progress for b in world.audit.batches] == pytest.approx([(k + 1) / 6 for k in range(6)])


def test_batches_are_cut_as_far_as_the_credit_goes_and_no_further() -> None:
    """No queue grows: what the Boss has not asked for stays in stock."""
    world = joined(100, assistants=0, epochs=1, batch_size=10, prefetch_batches=3)
    world.grant()
    assert world.boss.last_step == 2
    world.pull()
    world.advance(10.0)
    assert world.boss.last_step == 2
    world.grant()
    assert world.boss.last_step == 3


def test_an_epoch_of_which_everything_is_shrunk_ends_without_a_step() -> None:
    """A policy that has gone astray keeps nothing; every epoch's end is still told, in order."""
    world = joined(10, epochs=3, batch_size=10, window_size=10, stock_batches=4)
    for _ in range(3):
        world.serve(world.assistants[0], rate=0.0)
    assert world.audit.ended == {0: -1, 1: -1, 2: -1}
    world.finish()
    assert world.audit.batches == []


def test_an_empty_epoch_in_the_midst_of_a_run_ends_after_the_step_before_it() -> None:
    """Epoch 1 of 3 is shrunk altogether."""
    world = joined(20, epochs=3, batch_size=10, window_size=10, stock_batches=12)
    assistant = world.assistants[0]
    for rate in [1.1, 1.1, 0.0, 0.0, 1.1, 1.1]:
        world.say(assistant.peer, assistant.select(assistant.windows.pop(0), rate=rate))
    world.finish()
    assert world.audit.ended == {0: 1, 1: 1, 2: 3}
    assert [b.epoch for b in world.audit.batches] == [0, 0, 2, 2]


def test_a_window_of_a_later_epoch_waits_for_its_own() -> None:
    """An Assistant is quick with the next epoch's window while this epoch's last one is being scored."""
    world = joined(20, assistants=2, epochs=2, batch_size=10, window_size=10, stock_batches=4)
    this, following = world.assistants
    for window in following.windows[:]:
        world.say(following.peer, following.select(window, rate=1.1))
    assert world.core.state.line_instances == 0 and world.core.state.ahead_instances == 20
    for window in this.windows[:]:
        world.say(this.peer, this.select(window, rate=1.1))
    world.finish()
    assert [b.epoch for b in world.audit.batches] == [0, 0, 1, 1]


# Reopened windows


def selected_early(*, lead: int) -> World:
    """Window 18 (epoch 3) is selected while all six windows of epoch 2 are still out, and just fresh enough.

    One instance is one step. ``lead`` more steps of freshness than the least that is accepted.
    """
    world = joined(
        24, assistants=0, epochs=4, batch_size=1, window_size=4, prefetch_batches=1, stock_batches=28,
        staleness_bound=34, lease_s=1e6,
    )  # fmt: skip
    train_through(world, 47)
    slow, quick = SimAssistant(Peer("slow", "assistant")), SimAssistant(Peer("quick", "assistant"))
    world.assistants.extend([slow, quick])
    for assistant, slots in ((slow, 6), (quick, 1)):
        world.hello(assistant.peer, slots=slots)
        while assistant.learned_through < 47:
            world.say(assistant.peer, assistant.credit())
            assistant.learn()
        world.say(assistant.peer, assistant.credit())
    assert [w.window for w in slow.windows] == [12, 13, 14, 15, 16, 17]
    assert [w.window for w in quick.windows] == [18]
    window = quick.windows.pop(0)
    learned_through = 48 + 3 - 34 + lead
    kept = window.ids[[0, 2, 3]]
    keep = np.array([0.5, 0.25, 0.125], np.float32)
    said = quick.select(window, kept_ids=kept, keep_probabilities=keep, learned_through=learned_through)
    world.say(quick.peer, said)
    assert world.core.state.peers[quick.peer.name].counters["windows"] == 1
    for assistant in (slow, quick):
        world.lose(assistant.peer)
    return world


def of_window(world: World, window: int) -> list[tuple[int, float, int | None]]:
    """(ID, π, ℓ) of all that was trained of a window, in order."""
    found = []
    for batch in world.audit.batches:
        for segment in batch.segments:
            if segment.window == window:
                found.append((int(batch.ids[0]), float(batch.keep_probabilities[0]), segment.learned_through))
    return found


def test_a_selection_in_stock_that_has_become_too_stale_passes_its_untrained_ids_the_shrunk_ones_too() -> None:
    """The windows before it passed whole after all, so its turn came later than was foreseen when it was accepted."""
    world = selected_early(lead=0)
    train_through(world, 80)
    ids = world.audit.window_ids(18)
    assert of_window(world, 18) == [(i, 1.0, None) for i in ids.tolist()]
    assert world.core.state.the_run.counters["reopened_windows"] == 1
    row = world.core.state.epochs[3]
    assert (row.kept, row.unfiltered) == (row.offered, row.offered)
    world.finish()


def test_a_window_that_becomes_too_stale_halfway_passes_only_what_was_not_trained() -> None:
    """Two of its three kept instances were fresh enough: they are trained once, with their π; the rest follow whole."""
    world = selected_early(lead=22)
    train_through(world, 80)
    ids = world.audit.window_ids(18).tolist()
    trained = of_window(world, 18)
    assert trained[:2] == [(ids[0], 0.5, 39), (ids[2], 0.25, 39)]
    assert trained[2:] == [(ids[1], 1.0, None), (ids[3], 1.0, None)]
    world.finish()


def test_a_selection_in_stock_that_is_still_fresh_enough_is_trained_as_it_was_selected() -> None:
    """The bound is exact: one step fresher, and nothing is reopened."""
    world = selected_early(lead=23)
    train_through(world, 80)
    ids = world.audit.window_ids(18).tolist()
    assert of_window(world, 18) == [(ids[0], 0.5, 40), (ids[2], 0.25, 40), (ids[3], 0.125, 40)]
    assert "reopened_windows" not in world.core.state.the_run.counters
    assert max(world.core.state.the_run.staleness_counts) == 34
    world.finish()


def test_staleness_is_counted_by_batch_and_unfiltered_batches_have_none() -> None:
    """Its quantiles in the report must not look better for batches that nobody selected."""
    world = joined(100, epochs=1, batch_size=10, window_size=10, stock_batches=2, prefetch_batches=1)
    assistant = world.assistants[0]
    world.say(assistant.peer, assistant.select(assistant.windows.pop(0), rate=1.1))
    world.grant()
    assert world.core.state.the_run.staleness_counts == {1: 1}
    world.lose(assistant.peer)
    train_through(world, 5)
    assert sum(world.core.state.the_run.staleness_counts.values()) == 1


def test_a_boss_that_leaves_early_ends_the_run_where_it_is() -> None:
    """An early stop by the training script."""
    world = joined(100, epochs=1, batch_size=10)
    train_through(world, 2)
    world.say(world.boss.ranks[0], Goodbye(reason="stopped"))
    assert world.core.state.the_run.ended == "stopped"
    assert world.core.state.the_run.instances_trained == 30
    assert not world.audit.ended
