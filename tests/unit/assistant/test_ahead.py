"""Looking ahead follows the epoch's order, behind the windows and no farther than it is of use."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.ahead import CHUNK, LEAD_WINDOWS, Ahead, Offered
from protocol.order import EpochOrder

N, SEED, WINDOW = 20_000, 7, 64


def window(epoch: int, start: int, *, n: int = N, size: int = WINDOW) -> np.ndarray:
    return EpochOrder(n, SEED, epoch).ids(start, min(n, start + size))


def all_of(ahead: Ahead) -> list[int]:
    found = []
    while (ids := ahead.next()) is not None:
        assert 0 < len(ids) <= CHUNK
        found += ids.tolist()
    return found


def test_before_the_first_window_there_is_nothing_to_look_at() -> None:
    assert Ahead(N, SEED).next() is None


def test_it_looks_at_what_follows_the_window_and_stops_in_reach() -> None:
    ahead, lead = Ahead(N, SEED), LEAD_WINDOWS * WINDOW
    ahead.offered(Offered.of(0, window(0, 128)))
    assert all_of(ahead) == window(0, 192, size=lead).tolist()
    ahead.offered(Offered.of(0, window(0, 192)))
    assert all_of(ahead) == window(0, 192 + lead).tolist(), "one window further"


def test_it_goes_on_with_the_next_epoch() -> None:
    ahead = Ahead(N, SEED)
    ahead.offered(Offered.of(0, window(0, N - 100)))
    found = all_of(ahead)
    assert found[:36] == window(0, N - 36).tolist() and found[36:100] == window(1, 0).tolist()


def test_what_the_run_has_gone_past_is_left_out() -> None:
    ahead = Ahead(N, SEED)
    ahead.offered(Offered.of(0, window(0, 0)))
    ahead.next()
    ahead.offered(Offered.of(1, window(1, 640)))
    found = ahead.next()
    assert found is not None and found.tolist() == window(1, 704, size=CHUNK).tolist()


def test_a_window_of_before_changes_nothing() -> None:
    ahead = Ahead(N, SEED)
    ahead.offered(Offered.of(0, window(0, 640)))
    expected = window(0, 704, size=LEAD_WINDOWS * WINDOW).tolist()
    ahead.offered(Offered.of(0, window(0, 0)))
    assert all_of(ahead) == expected


def test_a_window_that_is_sorted_by_length_is_taken_for_where_its_farthest_end_lies() -> None:
    ahead = Ahead(N, SEED)
    ahead.offered(Offered.of(0, window(0, 640)[::-1]))
    found = ahead.next()
    assert found is not None and found.tolist() == window(0, 704, size=CHUNK).tolist()


@given(n=st.integers(1, 300), epoch=st.integers(0, 3), at=st.integers(0, 299), size=st.integers(1, 64))
@settings(deadline=None)
def test_within_reach_no_instance_comes_twice_in_an_epoch(n: int, epoch: int, at: int, size: int) -> None:
    ahead, offered = Ahead(n, SEED), window(epoch, at % n, n=n, size=size)
    ahead.offered(Offered.of(epoch, offered))
    found, left = all_of(ahead), n - at % n - len(offered)
    assert len(found) <= max(1, n // 2)
    for of_one_epoch in (found[:left], found[left:]):
        assert len(set(of_one_epoch)) == len(of_one_epoch)
