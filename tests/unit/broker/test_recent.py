"""The loss log's last records in memory: what is there, and how many."""

from __future__ import annotations

import numpy as np
import pytest

from broker.recent import INSTANCES, LEAST, Recent
from protocol.messages import LossRecord


def record(step: int, instances: int) -> LossRecord:
    return LossRecord(
        position=step,
        step=step,
        rank=0,
        learned_through=step,
        epoch=0,
        ids=np.arange(instances),
        losses=np.ones(instances, dtype=np.float32),
        keep_probabilities=np.ones(instances, dtype=np.float32),
    )


@pytest.mark.parametrize(
    ("instances", "most"), [(0, INSTANCES // LEAST), (1, INSTANCES // LEAST), (128, INSTANCES // 128)]
)
def test_however_small_the_records_are_only_so_many_are_kept(instances: int, most: int) -> None:
    recent, count = Recent(), 3 * INSTANCES // LEAST
    for step in range(count):
        recent.append(record(step, instances))
    found = recent.of(count - most, count)
    assert found is not None and [one.step for one in found] == list(range(count - most, count))
    assert recent.of(count - most - 3, count) is None
