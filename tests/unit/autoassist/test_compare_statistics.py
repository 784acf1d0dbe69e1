"""The figures of a comparison: the saving at equal metric, its interval, paired differences, the paired drop rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoassist.compare_statistics import (
    F64,
    NONE,
    Curve,
    Interval,
    first_crossing,
    mean_sd,
    paired_difference,
    paired_drop_rate,
    saving,
    saving_of,
    student_t,
)

COSTS = (400.0, 600.0, 800.0, 1000.0)
METRICS = (0.80, 0.90, 0.94, 0.96)


@pytest.mark.parametrize(
    "level, cost",
    [(0.80, 400.0), (0.85, 500.0), (0.90, 600.0), (0.95, 900.0), (0.96, 1000.0), (0.97, math.inf), (0.79, None)],
)
def test_a_line_crosses_a_level_where_a_ruler_would_say(level: float, cost: float | None) -> None:
    found = first_crossing(COSTS, METRICS, level)
    assert found == (pytest.approx(cost) if cost is not None else None)


def test_of_several_crossings_the_first_counts() -> None:
    assert first_crossing(COSTS, (0.80, 0.95, 0.90, 0.96), 0.95) == 600.0


def test_a_line_that_begins_above_a_level_does_not_cross_it() -> None:
    assert first_crossing(COSTS, (0.80, 0.78, 0.90, 0.96), 0.79) is None


def test_a_plateau_is_crossed_where_it_begins() -> None:
    assert first_crossing(COSTS, (0.80, 0.90, 0.90, 0.90), 0.90) == 600.0


def test_the_saving_is_the_share_of_what_uniform_would_need() -> None:
    assert saving_of(COSTS, METRICS, 600.0, 0.96) == (pytest.approx(0.4), False)
    assert saving_of(COSTS, METRICS, 600.0, 0.95) == (pytest.approx(1 / 3), False)
    assert saving_of(COSTS, METRICS, 600.0, 0.85) == (pytest.approx(-0.2), False)


def test_a_metric_above_all_that_uniform_reaches_gives_a_lower_bound() -> None:
    assert saving_of(COSTS, METRICS, 600.0, 0.99) == (pytest.approx(0.4), True)


def test_a_metric_below_all_that_uniform_reaches_saves_none() -> None:
    assert saving_of(COSTS, METRICS, 600.0, 0.70) == (NONE, False)


@given(st.floats(0.5, 1.0), st.floats(1.0, 1000.0))
@settings(deadline=None)
def test_a_better_metric_never_saves_less(metric: float, cost: float) -> None:
    worse, _ = saving_of(COSTS, METRICS, cost, metric)
    better, _ = saving_of(COSTS, METRICS, cost, metric + 0.01)
    assert better >= worse


def noisy(metrics: tuple[float, ...], seeds: int, spread: float = 0.002) -> F64:
    noise = np.random.default_rng(7).normal(scale=spread, size=(len(metrics), seeds))
    return np.array(metrics)[:, None] + noise


def curve(seeds: int, spread: float = 0.002) -> Curve:
    return Curve(costs=np.repeat(np.array(COSTS)[:, None], seeds, axis=1), metrics=noisy(METRICS, seeds, spread))


def test_the_bootstrap_interval_holds_the_saving_and_is_the_same_each_time() -> None:
    costs, metrics = np.full(5, 600.0), noisy((0.95,), 5)[0]
    interval, at_least = saving(curve(5), costs, metrics)
    assert not at_least and interval.low is not None and interval.high is not None
    assert interval.low < interval.value < interval.high
    assert interval.low > 0.2 and interval.high < 0.45
    assert saving(curve(5), costs, metrics)[0] == interval


def test_without_a_spread_the_interval_is_a_point() -> None:
    interval, _ = saving(curve(3, spread=0.0), np.full(3, 600.0), np.full(3, 0.95))
    assert interval.low == interval.value == interval.high == pytest.approx(1 / 3)


def test_draws_that_never_cross_count_as_none() -> None:
    interval, _ = saving(curve(3, spread=0.0), np.full(3, 600.0), np.array([0.70, 0.95, 0.95]))
    assert interval.low == NONE and interval.high is not None and interval.high > 0.3


def test_seeds_are_drawn_for_policy_and_uniform_together() -> None:
    """A seed that is good for both changes nothing: the spread that they share is not in the interval."""
    shift = np.array([-0.01, 0.0, 0.01])
    shared = Curve(costs=curve(3).costs, metrics=np.array(METRICS)[:, None] + shift)
    interval, _ = saving(shared, np.full(3, 600.0), 0.95 + shift)
    assert interval.low == pytest.approx(1 / 3) and interval.high == pytest.approx(1 / 3)


def test_one_seed_has_no_interval() -> None:
    interval, _ = saving(curve(1, 0.0), np.array([600.0]), np.array([0.95]))
    assert interval == Interval(pytest.approx(1 / 3), None, None)
    assert not interval.is_above and not interval.is_below
    assert paired_difference(np.array([0.9]), np.array([0.8])) == Interval(pytest.approx(0.1), None, None)
    assert mean_sd(np.array([0.9])) == (0.9, None)


def test_a_paired_difference_has_students_interval() -> None:
    ours, theirs = np.array([0.95, 0.97, 0.96]), np.array([0.94, 0.95, 0.93])
    found = paired_difference(ours, theirs)
    reach = 4.303 * 0.01 / math.sqrt(3)
    assert found == Interval(pytest.approx(0.02), pytest.approx(0.02 - reach), pytest.approx(0.02 + reach))
    assert not found.is_above and paired_difference(ours, theirs - 0.01).is_above
    assert paired_difference(theirs - 0.01, ours).is_below


@pytest.mark.parametrize("freedom, quantile", [(1, 12.706), (10, 2.228), (11, 2.201), (30, 2.042), (1000, 1.962)])
def test_students_quantile_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=0.003)


@given(
    st.integers(1, 10_000),
    st.floats(0.3, 12.0),
    st.floats(0.3, 1.0),
    st.integers(0, 2),
    st.tuples(st.sampled_from([0.0, 0.125, 0.5]), st.sampled_from([0.0, 0.04, 0.3])),
)
@settings(deadline=None)
def test_random_drop_keeps_as_many_of_the_offered_as_its_pair(
    n: int, epochs: float, kept_fraction: float, warmup: int, shares: tuple[float, float]
) -> None:
    """Unless its pair kept fewer than can be with warm-up and anneal whole."""
    passes = max(1, round(epochs * n))
    anneal, unscored = shares
    whole = {"warmup_epochs": warmup, "anneal_share": anneal, "unscored": unscored}
    rate = paired_drop_rate(n=n, passes=passes, kept_fraction=kept_fraction, **whole)
    assert 0.0 <= rate <= 0.95
    if not 0.0 < rate < 0.95:
        return
    unfiltered = warmup * n + anneal * passes + unscored * passes / kept_fraction
    offered = unfiltered + (passes - unfiltered) / (1.0 - rate)
    assert passes / offered == pytest.approx(kept_fraction)


def test_a_pair_that_kept_all_drops_nothing() -> None:
    assert paired_drop_rate(n=100, passes=300, kept_fraction=1.0, warmup_epochs=1, anneal_share=0.125) == 0.0
    assert paired_drop_rate(n=100, passes=80, kept_fraction=0.9, warmup_epochs=1, anneal_share=0.125) == 0.0
