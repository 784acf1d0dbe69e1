"""Deterministic mode: who was quick, who fell silent, and when the broker was killed leave no trace in the batches."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.messages import Batch
from protocol.settings import RunSettings
from tests.unit.broker.world import World
from tests.unit.broker.world_runs import lengths_of, runs

TURNS = 80


def live(run: RunSettings, n: int, seed: int, *, faults: bool) -> list[Batch]:
    """The batches of a run whose processes take turns by chance."""
    world, chance = World(run, n, assistants=run.assistants, lengths=lengths_of(run, n)), random.Random(seed)
    joining = list(world.peers.values())
    chance.shuffle(joining)
    for peer in sorted(joining, key=lambda p: p.role == "assistant"):
        world.hello(peer)
    for _ in range(TURNS):
        turn(world, chance, faults=faults)
    world.rejoin_all()
    world.finish()
    return world.audit.batches


def turn(world: World, chance: random.Random, *, faults: bool) -> None:
    """One process does a little, or something breaks."""
    boss, assistant = world.boss, chance.choice(world.assistants)
    match chance.choice(["pull", "pull", "report", "report", "serve", "serve", "grant", "time", "fault"]):
        case "pull":
            world.pull()
        case "report":
            rank = chance.randrange(len(boss.ranks))
            for step in boss.reportable(rank)[: chance.randint(1, 3)]:
                world.report(rank, np.ones(boss.pulled[step].rank_counts[rank]))
        case "serve":
            world.serve(assistant)
        case "grant":
            world.grant()
        case "time":
            world.advance(chance.choice([0.1, 1.0, 10.0]))
        case "fault" if faults:
            match chance.choice(["lost", "new process", "crash", "back", "back"]):
                case "lost":
                    world.lose(chance.choice(list(world.peers.values())))
                case "new process":
                    world.lose(assistant.peer)
                    assistant.restart(from_checkpoint=chance.random() < 0.5)
                case "crash":
                    world.crash(chance.choice(["uncommitted", "unsent"]))
                case "back":
                    world.rejoin_all()


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine.ids, theirs.ids)
        assert np.array_equal(mine.keep_probabilities, theirs.keep_probabilities)
        assert (mine.epoch, mine.progress, mine.rank_counts) == (theirs.epoch, theirs.progress, theirs.rank_counts)
        places = [[(s.count, s.window, s.learned_through) for s in b.segments] for b in (mine, theirs)]
        assert places[0] == places[1]


@given(run=runs(deterministic=True), seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_two_runs_of_one_seed_draw_the_same_batches_whatever_the_timing(
    run: tuple[RunSettings, int], seeds: tuple[int, int]
) -> None:
    """I repeat yesterday's run on a busier machine: reports, credits and ticks come at other times, an Assistant is
    restarted, the broker is killed; the batches, their π, and what was known when they were selected are the same."""
    chosen, n = run
    assert_same(live(chosen, n, seeds[0], faults=False), live(chosen, n, seeds[1], faults=True))


def test_another_seed_draws_other_batches() -> None:
    """The comparison above is not between constants."""
    run = RunSettings(epochs=2, batch_size=8, deterministic=True)
    batches = [live(dataclasses.replace(run, seed=seed), 100, 0, faults=False)[0] for seed in (1, 2)]
    assert not np.array_equal(batches[0].ids, batches[1].ids)
