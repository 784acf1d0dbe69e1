"""What the broker counts of instances that passed whole, by cause."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.hub import Hub
from broker.report import build_report
from broker.stock import reopen_if_stale
from tests.unit.broker.world import World, joined

RUN: dict[str, Any] = {"epochs": 4, "batch_size": 10, "window_size": 10, "warmup_epochs": 1.5, "anneal_share": 0.25}
N = 100


def causes(world: World) -> dict[str, int]:
    return build_report(world.core, Hub()).selection.passed_whole


def test_what_passes_without_an_assistant_is_the_plans_where_the_plan_would_have_passed_it_too() -> None:
    """One and a half epochs of warm-up and one of anneal, of four."""
    world = joined(N, assistants=0, **RUN)
    world.finish()
    assert causes(world) == {"warmup": 150, "no_assistant": 150, "anneal": 100}


def test_a_uniform_run_has_neither_warm_up_nor_anneal() -> None:
    world = joined(N, assistants=0, **RUN, policy="uniform")
    world.finish()
    assert causes(world) == {"uniform": 4 * N}


@pytest.mark.parametrize("keep", [1.0, 0.9])
def test_a_window_that_an_assistant_passed_whole_counts_unless_it_was_by_luck(keep: float) -> None:
    """All instances of a window may be drawn at π = 0.9 too: then selection was at work."""
    world = joined(N, **RUN | {"warmup_epochs": 0.2, "stock_batches": 4})
    assistant, probabilities = world.assistants[0], np.full(10, keep, np.float32)
    for _ in range(4):  # to fill the stock
        window = assistant.windows.pop(0)
        whole = {"kept_ids": window.ids, "keep_probabilities": probabilities}
        world.say(assistant.peer, assistant.select(window, **whole))
    assert causes(world) == ({"warmup": 20, "gate": 20} if keep == 1.0 else {})


def test_only_what_a_selection_had_left_out_passes_for_staleness() -> None:
    world = joined(N, **RUN)
    world.serve(world.assistants[0])
    state = world.core.state
    row = next(row for row in state.windows.values() if row.learned_through is not None)
    left_out = 10 - len(row.kept_ids)
    reopen_if_stale(state, row, step=10**6)
    assert left_out and causes(world) == {"stale": left_out}
