"""Batches that the Boss gives back untrained."""

from __future__ import annotations

import pytest

from protocol.messages import Return
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
    world.say(world.boss.ranks[0], Return(steps=[step]))
    assert world.core.state.the_run.counters["returned_steps"] == 1
    assert unfiltered(world) - before == (len(row.batch.ids) + left if is_filtered else 0)
