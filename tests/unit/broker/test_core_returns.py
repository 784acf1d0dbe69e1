"""Batches that the Boss gives back untrained."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.arrays import empty_f32, empty_i64
from protocol.messages import OffPlanReport, Return
from tests.unit.broker.world import World, joined

RUN = {"epochs": 2, "batch_size": 5, "window_size": 20, "prefetch_batches": 4, "seed": 7}


def unfiltered(world: World) -> int:
    return sum(row.unfiltered for row in world.core.state.epochs.values())


@pytest.mark.parametrize("is_filtered", [False, True])
def test_what_is_given_back_counts_as_unfiltered_once(is_filtered: bool) -> None:
    world = joined(100, **RUN, **({"warmup_epochs": 0.0} if is_filtered else {"policy": "uniform"}))
    for _ in range(4 if is_filtered else 0):
        world.serve(world.assistants[0])
    world.grant()
    step, row = max(world.core.state.steps.items())
    segments = row.batch.segments
    assert all((segment.learned_through is not None) is is_filtered for segment in segments)
    windows = {segment.window for segment in segments}
    left = sum(len(w.kept_ids) - w.taken for w in world.core.state.windows.values() if w.window in windows)
    before = unfiltered(world)
    world.boss.asked = 1
    world.say(world.boss.ranks[0], Return(steps=[step]))
    assert world.core.state.the_run.counters["returned_steps"] == 1
    assert unfiltered(world) - before == (len(row.batch.ids) + left if is_filtered else 0)


def train_all(world: World) -> None:
    """What the Boss has, without asking for more."""
    while world.pull():
        pass
    while steps := world.boss.reportable(0):
        world.report(0, np.ones(len(world.boss.pulled[steps[0]].ids)))


@pytest.mark.parametrize("told_before", [0, 9])
def test_a_boss_that_gave_all_its_batches_back_comes_back_on_the_plan(told_before: int) -> None:
    """Off-plan steps that the broker knew lie before what it cut; others, which it did not know, made that stale."""
    world = joined(400, **RUN, warmup_epochs=0.0, staleness_bound=16)
    assistant, boss = world.assistants[0], world.boss
    world.grant()
    train_all(world)
    world.train_off_plan(told_before or 1)
    for _ in range(8):
        world.serve(assistant)
    boss.off_plan_steps += 40
    world.grant()
    assert boss.returned == RUN["prefetch_batches"], "all that had come was too stale"
    assert len(boss.items) == RUN["prefetch_batches"], "it comes again, whole"
    told = {"number": boss.off_plan_steps - 40, "through": boss.off_plan_steps - 1}
    world.say(boss.ranks[0], OffPlanReport(**told, ids=empty_i64(), losses=empty_f32()))
    train_all(world)
    assert boss.returned == RUN["prefetch_batches"] and world.core.state.stands_at(boss.last_pulled)
    world.finish()
