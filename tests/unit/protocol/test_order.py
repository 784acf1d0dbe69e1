"""The epoch's order is a permutation that nobody stores: every instance once, in an order of its own each epoch."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.order import BLOCK, STRETCHES_KEPT, EpochOrder

MANY = settings(max_examples=150, deadline=None)
sizes = st.integers(1, 5000)
seeds = st.integers(0, (1 << 63) - 1)
epochs = st.integers(0, 1 << 40)


def whole(n: int, seed: int = 1, epoch: int = 0) -> list[int]:
    return EpochOrder(n, seed, epoch).ids(0, n).tolist()


@MANY
@given(sizes, seeds, epochs)
def test_every_instance_is_offered_exactly_once_per_epoch(n: int, seed: int, epoch: int) -> None:
    assert sorted(whole(n, seed, epoch)) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097])
def test_sizes_around_powers_of_two_are_no_exception(n: int) -> None:
    assert sorted(whole(n)) == list(range(n))


@MANY
@given(sizes, seeds, st.lists(st.integers(0, 5000), max_size=12))
def test_any_cut_into_windows_gives_the_same_order(n: int, seed: int, cuts: list[int]) -> None:
    order = EpochOrder(n, seed, 3)
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    windows = [order.ids(start, stop) for start, stop in itertools.pairwise(edges)]
    assert np.concatenate(windows).tolist() == order.ids(0, n).tolist()


@MANY
@given(sizes, seeds, epochs)
def test_a_restarted_broker_finds_the_same_order(n: int, seed: int, epoch: int) -> None:
    assert whole(n, seed, epoch) == whole(n, seed, epoch)


@settings(max_examples=100, deadline=None)
@given(st.integers(50, 5000), st.tuples(seeds, epochs), st.tuples(seeds, epochs))
def test_another_seed_or_epoch_gives_another_order(n: int, one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (whole(n, *one) == whole(n, *other)) == (one == other)


def test_the_order_itself_never_changes_for_run_stores_depend_on_it() -> None:
    """A run that is resumed by a later version must offer what the earlier one has not."""
    assert whole(16, seed=1, epoch=0) == [1, 11, 15, 13, 8, 4, 5, 10, 9, 14, 12, 0, 3, 7, 6, 2]


def test_ids_are_int64_whatever_n() -> None:
    assert EpochOrder(10, 1, 0).ids(0, 10).dtype == np.int64
    assert EpochOrder(1, 1, 0).ids(0, 1).tolist() == [0]
    assert EpochOrder(10, 1, 0).ids(4, 4).shape == (0,)


AROUND_POWERS_OF_TWO = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025]


@pytest.mark.parametrize("n", AROUND_POWERS_OF_TWO)
def test_the_position_of_every_instance_is_where_the_order_has_it(n: int) -> None:
    order = EpochOrder(n, 1, 0)
    assert [order.position(instance_id) for instance_id in order.ids(0, n).tolist()] == list(range(n))


@MANY
@given(st.integers(1, 1 << 62), seeds, epochs, st.data())
def test_a_position_and_its_instance_lead_to_each_other_in_any_data_set(
    n: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    order, position = EpochOrder(n, seed, epoch), data.draw(st.integers(0, n - 1))
    assert order.position(int(order.ids(position, position + 1)[0])) == position
    instance_id = data.draw(st.integers(0, n - 1))
    assert order.ids(order.position(instance_id), order.position(instance_id) + 1).tolist() == [instance_id]


@pytest.mark.parametrize("instance_id", [-1, 10])
def test_an_instance_outside_the_data_set_has_no_position(instance_id: int) -> None:
    with pytest.raises(ValueError, match=f"instance {instance_id} is none of 0 to 9"):
        EpochOrder(10, 1, 0).position(instance_id)


@pytest.mark.parametrize("start, stop", [(-1, 3), (3, 2), (0, 11), (11, 12)])
def test_a_stretch_outside_the_epoch_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="leave 0 to 10"):
        EpochOrder(10, 1, 0).ids(start, stop)


@pytest.mark.parametrize("n", [10**9, 10**12, (1 << 62) - 1])
def test_a_window_of_a_huge_data_set_costs_only_its_own_size(n: int) -> None:
    tracemalloc.start()
    order = EpochOrder(n, 1, 0)
    ids = order.ids(n - 4096, n)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(ids.tolist())) == 4096 and ids.min() >= 0 and ids.max() < n
    assert peak < 4096 * 8 * 20, f"{peak} bytes"


def test_a_window_of_a_huge_data_set_is_spread_over_all_of_it() -> None:
    n = 10**12
    tenths = np.bincount(EpochOrder(n, 1, 0).ids(0, 10_000) * 10 // n, minlength=10)
    assert tenths.min() > 850 and tenths.max() < 1150


def z_of_chi_square(counts: np.ndarray) -> float:
    """How many standard deviations the counts lie from uniform ones, for doubly constrained tables."""
    expected = counts.mean()
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("n", [3, 10, 17, 64, 100])
def test_every_instance_comes_at_every_place_about_equally_often(n: int) -> None:
    counts = np.zeros((n, n))
    for epoch in range(1500):
        counts[np.arange(n), EpochOrder(n, 7, epoch).ids(0, n)] += 1
    assert abs(z_of_chi_square(counts)) < 5


def test_neighbours_in_one_epoch_are_no_neighbours_in_the_next() -> None:
    """Else the same instances would always meet in one batch."""
    n, together = 1000, 0
    for epoch in range(100):
        place, later = np.empty(n, np.int64), np.empty(n, np.int64)
        place[EpochOrder(n, 7, epoch).ids(0, n)] = np.arange(n)
        later[EpochOrder(n, 7, epoch + 1).ids(0, n)] = np.arange(n)
        neighbours = later[np.argsort(place)]
        together += int((np.abs(np.diff(neighbours)) == 1).sum())
    assert 130 < together < 280, "about 2 in each of 100 pairs of epochs are neighbours by chance"


def test_where_an_instance_stands_says_nothing_about_where_it_stands_next() -> None:
    n = 2000
    orders = [EpochOrder(n, 7, epoch).ids(0, n) for epoch in range(20)]
    worst = max(abs(np.corrcoef(a, b)[0, 1]) for a, b in itertools.pairwise(orders))
    assert worst < 5 / np.sqrt(n)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The stretches that are computed; nothing that the broker does takes as long."""
    computed: list[tuple[int, int]] = []
    compute = EpochOrder._compute

    def counting(order: EpochOrder, start: int, stop: int) -> np.ndarray:
        computed.append((start, stop))
        return compute(order, start, stop)

    monkeypatch.setattr(EpochOrder, "_compute", counting)
    return computed


def test_windows_side_by_side_are_computed_together_and_once(computed: list[tuple[int, int]]) -> None:
    """A window is asked for when it is leased and again when its selection comes."""
    order = EpochOrder(10**9, 1, 0)
    for start in (0, 256, 0, 512, 256, 1792):
        order.ids(start, start + 256)
    assert computed == [(0, BLOCK)]


def test_a_window_of_many_ranks_is_computed_once_too_and_only_the_last_ones_are_kept(
    computed: list[tuple[int, int]],
) -> None:
    order, size = EpochOrder(10**9, 1, 0), 5 * BLOCK
    windows = [(i * size, (i + 1) * size) for i in range(STRETCHES_KEPT + 1)]
    for window in [*windows, *windows[1:], windows[0]]:
        order.ids(*window)
    assert computed == [*windows, windows[0]]
    assert len(order._stretches) == STRETCHES_KEPT


def test_what_was_asked_for_is_read_only_so_that_it_may_be_handed_out_again() -> None:
    with pytest.raises(ValueError, match="read-only"):
        EpochOrder(1000, 1, 0).ids(0, 10)[0] = 5
