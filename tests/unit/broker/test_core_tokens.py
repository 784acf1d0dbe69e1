"""Batches by a budget of tokens: how the pool is cut, when a selection goes first, what a restart leaves of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from broker.effects import Refuse, Send
from broker.hub import Hub
from broker.report import build_report, build_statistics
from protocol.messages import Lengths, Stop
from protocol.token_batches import I32, lengths_id
from tests.unit.broker.world import World, joined, train_through

BUDGET = 256
RUN: dict[str, Any] = {"epochs": 2, "batch_size": 12, "max_tokens": BUDGET, "pool_steps": 4}


def some_lengths(n: int, *, most: int = BUDGET, mean: float = 20.0, sigma: float = 0.6) -> I32:
    """As those of sentences are: most of them short, and a few several times as long."""
    drawn = np.random.default_rng(n).lognormal(np.log(mean) - sigma**2 / 2, sigma, n)
    return np.clip(np.rint(drawn), 1, most).astype(np.int32)


def world_of(n: int, *, assistants: int = 0, **changes: Any) -> World:
    return joined(n, assistants=assistants, lengths=some_lengths(n), **{**RUN, **changes})


def finished(n: int, **changes: Any) -> World:
    """A run without faults, brought to its end and audited: each kept instance once an epoch, within the budget."""
    world = world_of(n, **changes)
    world.finish()
    return world


def counters(world: World) -> dict[str, float]:
    return world.core.state.the_run.counters


def padding(world: World) -> float:
    """Share of what is not a flush."""
    found = counters(world)
    return 1.0 - found["tokens"] / found["padded_tokens"]


def ids_of(world: World) -> list[list[int]]:
    return [batch.ids.tolist() for batch in world.audit.batches]


# Cutting


@pytest.mark.parametrize("changes", [{}, {"world_size": 3}, {"assistants": 1}, {"assistants": 1, "world_size": 2}])
def test_every_rank_s_batch_keeps_to_the_budget_and_every_kept_instance_comes_once_an_epoch(
    changes: dict[str, Any],
) -> None:
    world = finished(400, **changes)
    assert all(len({s.epoch for s in b.segments}) == 1 for b in world.audit.batches), "what is left of an epoch is cut"
    assert counters(world)["tokens"] == sum(
        int(world.audit.lengths[b.ids[: len(b.ids) - b.padding]].sum()) for b in world.audit.batches
    )


@pytest.mark.parametrize(("ranks", "kept"), [(1, 1.1), (1, 0.4), (4, 0.4)])
def test_less_than_a_tenth_is_padding_where_lengths_are_as_those_of_sentences(ranks: int, kept: float) -> None:
    """The pool's own size: sixteen batches of 1,024 tokens."""
    n = 2000 * ranks
    lengths = some_lengths(n, mean=25.0)
    run = {"epochs": 1, "batch_size": 41, "max_tokens": 1024, "world_size": ranks}
    world = joined(n, lengths=lengths, **run)
    world.finish(rate=kept)
    assert padding(world) < 0.1


def test_in_one_batch_by_number_as_much_again_would_be_padding() -> None:
    """So the test above is not of lengths that need no pool."""
    lengths = some_lengths(4000, mean=25.0)
    rows = [lengths[start : start + 41] for start in range(0, 4000, 41)]
    assert 1.0 - lengths.sum() / sum(len(r) * r.max() for r in rows) > 0.5


def test_steps_of_short_and_of_long_instances_are_shuffled_and_another_seed_shuffles_otherwise() -> None:
    means = {}
    for seed in (1, 2):
        world = finished(600, epochs=1, seed=seed, pool_steps=8)
        means[seed] = [float(world.audit.lengths[b.ids].mean()) for b in world.audit.batches[:24]]
        rises = [a < b for a, b in pairwise(means[seed])]
        assert sum(a != b for a, b in pairwise(rises)) >= 9, "up and down, and not along the pool"
    assert means[1] != means[2]


def test_what_is_left_of_a_pool_goes_with_the_next_one_and_is_not_left_over_again() -> None:
    """Always divided from the longest, the shortest of thirty windows would wait until the epoch's end."""
    newest, longest_wait = 0, 0
    for batch in finished(900, epochs=1, window_size=24).audit.batches:
        newest = max(newest, *(segment.window for segment in batch.segments))
        longest_wait = max(longest_wait, newest - min(segment.window for segment in batch.segments))
    assert longest_wait <= 6, "windows: three make a pool"


def test_a_budget_of_instances_is_spent_to_the_last_one() -> None:
    world = finished(400, epochs=None, boss_instances=150)
    assert sum(len(b.ids) - b.padding for b in world.audit.batches) == 150
    assert world.audit.batches[-1].progress == 1.0


def test_progress_rises_from_step_to_step_and_ends_at_one() -> None:
    """Schedules are driven by it; a pool's steps come in any order of length, and it counts instances."""
    progress = [b.progress for b in finished(400, assistants=1).audit.batches]
    assert progress == sorted(progress) and progress[-1] == 1.0 and progress[0] < 0.1


def test_a_set_smaller_than_a_step_is_one_step_for_all_ranks() -> None:
    world = finished(7, epochs=3, world_size=3)
    assert [sorted(b.rank_counts) for b in world.audit.batches] == [[2, 2, 3]] * 3


# Selection


def test_windows_are_leased_until_a_pool_is_full_so_that_an_assistant_in_time_selects_all_of_it() -> None:
    world = world_of(1000, assistants=1, pool_steps=8, prefetch_batches=2, stock_batches=1)
    world.serve(world.assistants[0])
    for _ in range(8):
        world.serve(world.assistants[0])
    state = world.core.state
    assert 9 * state.step_size <= state.in_stock < 13 * state.step_size
    world.grant()
    assert world.boss.last_step == 1 and not any(k.startswith("unfiltered_windows") for k in counters(world))


# Staleness


def test_a_selection_near_its_bound_goes_first_so_none_becomes_too_stale() -> None:
    """The Assistant learns nothing more: all that it selects in time is trained in time, as it was selected."""
    tight = {"prefetch_batches": 2, "stock_batches": 1, "window_size": 24, "pool_steps": 4}
    world = world_of(600, assistants=1, epochs=1, staleness_bound=14, **tight)
    assistant = world.assistants[0]
    for _ in range(60):
        world.serve(assistant, learns=len(world.audit.batches) < 20)
        world.train(1)
    world.finish()
    assert counters(world)["flushed_steps"] > 0
    assert max(world.core.state.the_run.staleness_counts) <= 14


# What is said of it


def test_the_report_tells_what_is_padding_with_flushes_apart_and_nothing_of_it_without_tokens() -> None:
    world = world_of(300, assistants=1, epochs=1)
    world.finish()
    found = build_report(world.core, Hub()).tokens
    assert found is not None and (found.max_tokens, found.pool_steps) == (BUDGET, 4)
    assert world.audit.lengths is not None
    batches = [np.split(world.audit.lengths[b.ids], np.cumsum(b.rank_counts)[:-1]) for b in world.audit.batches]
    padded = sum(len(rows) * int(rows.max()) for batch in batches for rows in batch)
    assert found.padded_tokens + counters(world).get("flushed_padded_tokens", 0) == padded
    assert found.padding_fraction == pytest.approx(1.0 - found.tokens / found.padded_tokens)
    statistics = build_statistics(world.core, Hub(), world.now)
    assert (statistics.tokens, statistics.padded_tokens) == (found.tokens, found.padded_tokens)
    plain = joined(100, assistants=0).core
    assert build_report(plain, Hub()).tokens is None and build_statistics(plain, Hub(), 0.0).tokens is None


# Restarts


@pytest.mark.parametrize("changes", [{}, {"world_size": 2}])
def test_a_run_is_the_same_with_a_crash_after_every_report(changes: dict[str, Any]) -> None:
    """Nothing of the pool is kept but what the rows say."""

    def run(*, crashing: bool) -> World:
        world = world_of(200, **changes)
        while not world.boss.finished:
            world.pull()
            for peer in world.boss.ranks:
                for _ in world.boss.reportable(peer.rank)[:1]:
                    world.report(peer.rank)
                    if crashing:
                        world.crash("unsent")
                        world.rejoin_all()
            world.grant()
        world.finish()
        return world

    assert ids_of(run(crashing=False)) == ids_of(run(crashing=True))


def test_deterministic_mode_waits_for_no_selection_that_needs_a_step_behind_it_and_reopens_nothing() -> None:
    for pool_steps in (1, 5):
        world = finished(250, assistants=1, deterministic=True, pool_steps=pool_steps)
        assert "reopened_windows" not in counters(world)


# Lengths


def lengths_of(world: World, start: int, stop: int) -> Lengths:
    assert world.lengths is not None
    return Lengths(start=start, values=world.lengths[start:stop].astype(np.int64))


def without_lengths(n: int) -> World:
    """Everybody has joined, and the Boss has not said its lengths yet."""
    world = World(world_of(n).settings, n, assistants=0, lengths=some_lengths(n))
    world.tells_lengths = False
    world.rejoin_all()
    world.grant()
    return world


def test_no_batch_is_cut_before_all_lengths_have_come_and_a_piece_that_is_repeated_changes_nothing() -> None:
    world = without_lengths(300)
    boss = world.boss.ranks[0]
    for start, stop in ((0, 100), (0, 100), (50, 200), (100, 200), (250, 300)):
        world.say(boss, lengths_of(world, start, stop))
        assert world.boss.last_step == -1
    assert world.core.state.the_run.lengths_kept == 200, "the last piece left a hole"
    assert world.core.state.peers["boss-0"].counters["messages_refused"] == 1
    world.say(boss, lengths_of(world, 200, 300))
    assert world.boss.last_step >= 0 and np.array_equal(world.kept_lengths, world.lengths)
    world.finish()


def test_lengths_are_named_as_they_come_and_in_one_go_only_by_a_broker_that_was_killed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a thousand million it takes seconds, in which nobody would hear of the broker."""
    named = Mock(wraps=lengths_id)
    monkeypatch.setattr("broker.lengths.lengths_id", named)
    for is_killed in (False, True):
        world = without_lengths(300)
        for start in (0, 100, 200):
            world.say(world.boss.ranks[0], lengths_of(world, start, start + 100))
            if is_killed and start == 100:
                world.crash()
                world.rejoin_all()
        assert not world.core.state.awaits_lengths and not world.core.state.the_run.ended
        assert named.call_count == is_killed


def test_a_broker_killed_between_two_pieces_goes_on_with_those_that_it_has() -> None:
    world = without_lengths(300)
    world.say(world.boss.ranks[0], lengths_of(world, 0, 100))
    world.crash()
    assert world.core.state.the_run.lengths_kept == 100 and world.core.state.awaits_lengths
    world.tells_lengths = True
    world.rejoin_all()
    assert not world.core.state.awaits_lengths
    world.finish()


def test_an_instance_longer_than_a_batch_ends_the_run_with_its_id() -> None:
    """A Boss of ours finds it before it joins."""
    world = without_lengths(300)
    effects = world.say(world.boss.ranks[0], Lengths(start=0, values=np.array([5, BUDGET + 1])))
    (stop,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Stop)]
    assert stop.reason == "failed" and "instance 1 is 257 tokens long" in stop.detail


def test_other_lengths_than_the_hello_named_end_the_run() -> None:
    world = without_lengths(300)
    world.say(world.boss.ranks[0], Lengths(start=0, values=np.full(300, 7)))
    assert world.core.state.the_run.ended == "failed" and world.boss.last_step == -1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lengths": "others"}, "boss-1 has other lengths of the instances than the run"),
        ({"lengths": ""}, "boss-1 has other lengths of the instances than the run"),
    ],
)
def test_a_rank_with_other_lengths_is_refused(changes: dict[str, Any], says: str) -> None:
    world = World(world_of(200, world_size=2).settings, 200, assistants=0, lengths=some_lengths(200))
    world.hello(world.boss.ranks[0])
    (refusal,) = [e for e in world.hello(world.boss.ranks[1], **changes) if isinstance(e, Refuse)]
    assert refusal.code == "dataset" and says in refusal.reason


def test_a_budget_of_tokens_without_lengths_is_refused_and_lengths_without_a_budget_too() -> None:
    for settings, lengths in ((world_of(200).settings, ""), (joined(200, assistants=0).settings, "some")):
        world = World(settings, 200, assistants=0)
        (refusal,) = [e for e in world.hello(world.boss.ranks[0], lengths=lengths) if isinstance(e, Refuse)]
        assert refusal.code == "settings" and "one is nothing without the other" in refusal.reason


# Off the plan


def test_steps_off_the_plan_obey_the_budget_and_what_they_make_too_stale_comes_again() -> None:
    world = world_of(900, assistants=1, staleness_bound=25, epochs=2)
    for _ in range(12):
        world.serve(world.assistants[0])
        world.train(1)
    train_through(world, world.boss.last_step)
    world.holding = True
    world.serve(world.assistants[0])
    world.grant()
    world.crash("unsent")
    world.train_off_plan(20)
    world.rejoin_all()
    world.finish()
    own = [b for b in world.audit.batches if b.kind == "off_plan"]
    assert len(own) == 20
    assert counters(world)["returned_steps"] > 0
