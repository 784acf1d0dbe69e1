"""A billion instances cost the broker no more than a thousand."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from protocol.off_plan import draw_off_plan
from protocol.order import EpochOrder
from protocol.settings import RunSettings
from tests.unit.broker.world import joined, train_through
from tests.unit.broker.world_audit import Audit

MANY = 10**9


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """A gigabyte: who allocates for every instance fails here, and takes no machine down."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit reads the order of a whole epoch, 8 GB of this one; here it reads what it compares with."""

    def window_ids(audit: Audit, window: int) -> np.ndarray:
        epoch, place = divmod(window, audit.windows_per_epoch)
        size = audit.settings.window_instances
        order = EpochOrder(audit.n, audit.settings.seed, epoch)
        return order.ids(place * size, min(audit.n, (place + 1) * size))

    monkeypatch.setattr(Audit, "window_ids", window_ids)


def peak_of_a_run(n: int, *, assistants: int) -> int:
    """Bytes, at most, while a run is begun, leased, cut, trained a little, and taken up again by another process."""
    tracemalloc.start()
    try:
        world = joined(n, assistants=assistants, epochs=1, batch_size=4)
        train_through(world, 3)
        world.crash()
        assert world.core.state.the_run.n == n
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("assistants", [0, 1])
def test_a_run_over_a_billion_instances_takes_no_more_memory_than_one_over_a_thousand(assistants: int) -> None:
    peak_of_a_run(1000, assistants=assistants)  # what is allocated once
    few, many = (peak_of_a_run(n, assistants=assistants) for n in (1000, MANY))
    assert many < few + 500e3, f"{many} bytes, not {few}"


def test_a_step_off_the_plan_is_drawn_without_a_list_of_all_instances() -> None:
    tracemalloc.start()
    ids, _ = draw_off_plan(RunSettings(batch_size=64), MANY, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(ids)) == 64 and peak < 1e6
