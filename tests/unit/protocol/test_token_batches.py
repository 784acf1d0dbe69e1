"""Lengths are divided into batches that keep to the budget, in the same way wherever one begins."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import SettingError
from protocol.off_plan import draw_off_plan
from protocol.settings import RunSettings
from protocol.token_batches import (
    Stretch,
    divide,
    for_all_ranks,
    lengths_id,
    padded_tokens,
    require_lengths,
    typical_batch_size,
    usual_steps,
)


def ascending(n: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(1, 41, n))


some_lengths = st.builds(ascending, st.integers(1, 120), st.integers(0, 1000))
budgets = st.integers(40, 200)
rank_numbers = st.integers(1, 4)


def run_of(max_tokens: int, world_size: int, **changes: Any) -> RunSettings:
    return RunSettings(max_tokens=max_tokens, world_size=world_size, **changes)


def sizes(stretch: Stretch, lengths: np.ndarray) -> list[int]:
    """Padded tokens of each rank's batch."""
    return [(stop - start) * int(lengths[stop - 1]) for start, stop in pairwise(stretch.cuts)]


@given(lengths=some_lengths, budget=budgets, ranks=rank_numbers, from_longest=st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_batch_keeps_to_the_budget_and_every_instance_is_in_one(
    lengths: np.ndarray, budget: int, ranks: int, from_longest: bool
) -> None:
    found = sorted(divide(lengths, run_of(budget, ranks), from_longest=from_longest), key=lambda s: s.start)
    assert [s.start for s in found] == [0, *(s.stop for s in found[:-1])] and found[-1].stop == len(lengths)
    for stretch in found:
        assert max(sizes(stretch, lengths)) <= budget and len(stretch.cuts) - 1 <= ranks
        assert all(start < stop for start, stop in pairwise(stretch.cuts))


@given(lengths=some_lengths, budget=budgets, ranks=rank_numbers, from_longest=st.booleans())
@settings(max_examples=100, deadline=None)
def test_only_the_last_step_is_not_full_and_a_full_one_has_a_batch_for_each_rank_without_room_for_a_row_more(
    lengths: np.ndarray, budget: int, ranks: int, from_longest: bool
) -> None:
    found = divide(lengths, run_of(budget, ranks), from_longest=from_longest)
    assert all(stretch.is_full for stretch in found[:-1])
    for stretch in found:
        if stretch.is_full:
            assert len(stretch.cuts) == ranks + 1
        for start, stop in pairwise(stretch.cuts if stretch.is_full else ()):
            more = lengths[stop - 1] if from_longest or stop == len(lengths) else lengths[stop]
            assert (stop - start + 1) * more > budget


@given(lengths=some_lengths, budget=budgets, ranks=rank_numbers, from_longest=st.booleans(), which=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_where_a_step_is_taken_away_the_others_stay_what_they_are(
    lengths: np.ndarray, budget: int, ranks: int, from_longest: bool, which: int
) -> None:
    """A pool is divided anew before each step, and after a restart; nothing of its division is kept."""
    run = run_of(budget, ranks)
    before = [lengths[s.start : s.stop].tolist() for s in divide(lengths, run, from_longest=from_longest)]
    gone = divide(lengths, run, from_longest=from_longest)[which % len(before)]
    left = np.delete(lengths, slice(gone.start, gone.stop))
    after = [left[s.start : s.stop].tolist() for s in divide(left, run, from_longest=from_longest)]
    assert after == before[: which % len(before)] + before[which % len(before) + 1 :]


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=4), ranks=st.integers(1, 6))
@settings(deadline=None)
def test_every_rank_gets_a_batch_where_there_are_as_many_instances(rows: list[int], ranks: int) -> None:
    cuts = [0, *np.cumsum(rows[:ranks]).tolist()]
    found = for_all_ranks(cuts, ranks)
    assert set(cuts) <= set(found) and found == sorted(set(found))
    assert len(found) - 1 == (ranks if cuts[-1] >= ranks else cuts[-1])


def test_what_is_padded_is_counted_rank_by_rank() -> None:
    assert padded_tokens(np.array([3, 5, 2, 2]), [2, 2]) == 2 * 5 + 2 * 2


@given(n=st.integers(4, 300), budget=budgets, ranks=rank_numbers, number=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_a_step_off_the_plan_keeps_to_the_budget_and_gives_each_rank_something(
    n: int, budget: int, ranks: int, number: int
) -> None:
    lengths = np.random.default_rng(n).integers(1, 40, n).astype(np.int32)
    ids, counts = draw_off_plan(run_of(budget, ranks, batch_size=4), n, number, lengths)
    assert len(set(ids.tolist())) == len(ids) == sum(counts) and len(counts) == ranks and min(counts) > 0
    starts = np.cumsum([0, *counts])
    assert all((b - a) * lengths[ids[a:b]].max() <= budget for a, b in pairwise(starts.tolist()))


BAD: dict[str, tuple[Any, str]] = {
    "one too long": (np.array([3, 65, 2]), "max_tokens=64: instance 1 is 65 tokens long; raise --max-tokens to that"),
    "an empty one": (np.array([3, 0, 2]), "lengths: instance 1 has length 0; each is at least 1 token long"),
    "too few": (np.array([3, 2]), "lengths: int64 of shape (2,); give a whole number for each of 3 instances"),
    "fractions": (np.array([3.0, 2.0, 1.0]), "lengths: float64 of shape (3,); give a whole number for each"),
}


@pytest.mark.parametrize(("lengths", "says"), BAD.values(), ids=BAD.keys())
def test_lengths_that_no_batch_can_hold_are_refused_with_the_instance_and_the_remedy(lengths: Any, says: str) -> None:
    with pytest.raises(SettingError) as refused:
        require_lengths(lengths, 3, 64)
    assert says in str(refused.value)


def test_lengths_are_the_same_whatever_kind_of_whole_number_they_are() -> None:
    one, other = (require_lengths(np.array([3, 2], kind), 2, 64) for kind in (np.int64, np.uint16))
    assert lengths_id(one) == lengths_id(other) != lengths_id(one[::-1].copy())
    assert lengths_id(None) == ""


def test_a_batch_and_an_epoch_have_about_as_many_as_the_average_says() -> None:
    lengths = np.full(1000, 20, np.int32)
    run = run_of(200, 2)
    assert typical_batch_size(lengths, run) == 10
    assert usual_steps(1000, run, lengths) == 55, "fifty, and a tenth for padding"
    assert usual_steps(1000, RunSettings(batch_size=30), None) == 34
