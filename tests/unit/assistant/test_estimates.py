"""The estimators over the 1/π-weighted stream."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assistant.estimates import Lift, RecentLosses, RunningMean, RunningQuantile


def f32(values: object) -> np.ndarray:
    """As float32."""
    return np.asarray(values, dtype=np.float32)


def test_the_mean_is_nan_before_the_first_report_and_weighted_after() -> None:
    mean = RunningMean()
    assert math.isnan(mean.value)
    mean.add(f32([1.0, 4.0]), f32([1.0, 3.0]))
    assert mean.value == pytest.approx((1.0 + 12.0) / 4.0)


def test_the_mean_forgets() -> None:
    mean = RunningMean(decay=0.9)
    for _ in range(100):
        mean.add(f32([10.0]), f32([1.0]))
    for _ in range(100):
        mean.add(f32([1.0]), f32([1.0]))
    assert mean.value == pytest.approx(1.0, abs=0.01)


def test_the_quantile_is_that_of_the_weighted_sample() -> None:
    quantile = RunningQuantile(0.7)
    rng = np.random.default_rng(0)
    for _ in range(64):
        losses = f32(rng.random(64))
        keep = np.where(losses < 0.5, 0.25, 1.0)
        passed = rng.random(64) < keep
        quantile.add(losses[passed], f32(1.0 / keep[passed]))
    assert quantile.value == pytest.approx(0.7, abs=0.05)


def test_the_lift_is_the_difference_of_the_two_means() -> None:
    lift = Lift(decay=1.0)
    for _ in range(40):
        lift.add(f32([1.0, 0.0]), f32([3.0, 1.0]), f32([1.0, 1.0]))
    value, error = lift.value_and_error
    assert (value, error) == (pytest.approx(2.0), pytest.approx(0.0))
    assert lift.is_clearly_positive(2.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_lift_of_probabilities_that_know_nothing_is_within_its_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lift = Lift()
    for _ in range(200):
        lift.add(f32(rng.random(64)), f32(rng.exponential(size=64)), f32(np.ones(64)))
    value, error = lift.value_and_error
    assert abs(value) < 4.0 * error


def test_a_side_without_weight_gives_no_lift() -> None:
    lift = Lift()
    lift.add(f32(np.ones(64)), f32(np.arange(64)), f32(np.ones(64)))
    assert lift.value_and_error == (0.0, math.inf)
    assert not lift.is_clearly_positive(2.0)


@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_the_lift_has_the_error_that_it_says_however_little_the_probabilities_vary(spread: float) -> None:
    """Over 300 streams without lift, value / error has the deviation 1; one that varies little is no less certain."""
    rng = np.random.default_rng(5)
    scores = []
    for _ in range(300):
        lift = Lift()
        for _ in range(60):
            keep = 0.4 + spread * (rng.random(32) - 0.5)
            lift.add(f32(keep), f32(rng.exponential(size=32)), f32(1.0 / rng.uniform(0.3, 1.0, size=32)))
        value, error = lift.value_and_error
        scores.append(value / error)
    assert np.std(scores) == pytest.approx(1.0, abs=0.15)
    assert np.mean(scores) == pytest.approx(0.0, abs=0.2)


def test_a_lift_between_reports_counts_for_nothing() -> None:
    """Early reports lose more and are kept more: that is time, not knowledge."""
    rng, lift = np.random.default_rng(6), Lift()
    for number in range(100):
        level = 3.0 * 0.97**number
        keep = np.full(64, 0.2 + 0.8 * level / 3.0)
        lift.add(f32(keep), f32(level * rng.exponential(size=64)), f32(np.ones(64)))
    value, error = lift.value_and_error
    assert abs(value) < 4 * error + 1e-6


def test_a_lift_that_is_certain_but_small_is_not_clearly_positive() -> None:
    """A hundredth of the mean loss, without any error."""
    lift = Lift(decay=1.0)
    for _ in range(40):
        lift.add(f32([1.0, 0.0]), f32([1.005, 0.995]), f32([1.0, 1.0]))
    assert lift.value_and_error[0] == pytest.approx(0.01, rel=1e-3) and lift.value_and_error[1] < 1e-6
    assert not lift.is_clearly_positive(3.0)


def test_the_distribution_of_recent_losses_is_weighted_and_forgets() -> None:
    recent = RecentLosses(size=4)
    assert math.isnan(recent.quantile(0.5)) and recent.share_up_to(f32([1.0])).tolist() == [1.0]
    recent.add(f32([100.0, 1.0, 2.0]), f32([1.0, 3.0, 1.0]))
    assert recent.share_up_to(f32([0.5, 1.0, 1.5, 2.0, 100.0])).tolist() == pytest.approx([0.0, 0.6, 0.6, 0.8, 1.0])
    recent.add(f32([3.0, 4.0]), f32([1.0, 1.0]))
    assert recent.share_up_to(f32([4.0, 3.0])).tolist() == pytest.approx([1.0, 5 / 6])
    assert recent.quantile(0.4) == 1.0 and recent.quantile(0.6) == 2.0


def test_a_lift_that_was_asked_for_before_is_that_of_all_reports_and_of_a_state_taken_over() -> None:
    rng = np.random.default_rng(0)
    ones = np.ones(64, dtype=np.float32)
    asked, silent = Lift(), Lift()
    for _ in range(4):
        keep, losses = rng.random(64, dtype=np.float32), rng.random(64, dtype=np.float32)
        asked.add(keep, losses, ones)
        silent.add(keep, losses, ones)
        before = asked.value_and_error
    assert before == silent.value_and_error
    fresh = Lift()
    assert fresh.value_and_error == (0.0, math.inf)
    fresh.load_state_dict(silent.state_dict())
    assert fresh.value_and_error == before
