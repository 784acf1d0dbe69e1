"""What is remembered of an instance: the average of its losses, the last one, and when that was."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.instances import InstanceStore


def losses(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_first_loss_is_the_average_and_the_next_ones_move_it_half_the_way() -> None:
    store = InstanceStore(5)
    store.record(np.array([1, 3]), losses(4.0, -1.0), 0)
    store.record(np.array([3]), losses(2.0), 7)
    found = store.look_up(np.array([3, 0, 1]))
    assert found.mean_loss.tolist() == [0.5, 0.0, 4.0]
    assert found.last_loss.tolist() == [2.0, 0.0, 4.0]
    assert found.last_epoch.tolist() == [7, -1, 0]
    assert found.is_seen.tolist() == [True, False, True]


def test_at_smoothing_1_the_last_loss_alone_is_kept() -> None:
    store = InstanceStore(5, smoothing=1.0)
    store.record(np.array([1]), losses(4.0), 0)
    store.record(np.array([1]), losses(2.0), 2**31 - 2)
    found = store.look_up(np.array([1]))
    assert (found.mean_loss[0], found.last_loss[0], found.last_epoch[0]) == (2.0, 2.0, 2**31 - 2)


def test_an_instance_that_occurs_twice_in_a_report_counts_once() -> None:
    store = InstanceStore(3)
    store.record(np.array([0]), losses(8.0), 0)
    store.record(np.array([0, 0]), losses(2.0, 4.0), 1)
    assert store.look_up(np.array([0])).mean_loss.tolist() == [6.0]


@pytest.mark.parametrize(("smoothing", "most"), [(0.5, 12), (1.0, 8)])
def test_an_instance_takes_few_bytes(smoothing: float, most: int) -> None:
    state = InstanceStore(1000, smoothing).state_dict()
    assert sum(values.nbytes for values in state.values()) == most * 1000
