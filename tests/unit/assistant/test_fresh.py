"""Losses known afresh count in their own unit, until the instance is trained; the default policy keeps by them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assistant.fresh import FreshLosses
from assistant.policies import AutoAssist, make_policy
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, record

N = 400
IDS = np.arange(N)


def test_a_fresh_loss_is_in_units_of_the_mean_of_what_was_looked_at() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3, 5]), np.array([1.0, 3.0], dtype=np.float32))
    found = fresh.look_up(np.array([3, 4, 5]))
    assert found.relative.tolist() == [0.5, 0.0, 1.5] and found.age_reports.tolist() == [0, -1, 0]


def test_it_ages_by_reports_and_is_forgotten_with_its_instances_own() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3, 5]), np.ones(2, dtype=np.float32))
    fresh.forget(np.array([5, 6]))
    fresh.forget(np.array([7]))
    assert fresh.look_up(np.array([3, 5])).age_reports.tolist() == [2, -1]


def test_losses_that_are_zero_in_the_mean_have_no_unit_and_are_not_noted() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3]), np.zeros(1, dtype=np.float32))
    assert fresh.look_up(np.array([3])).age_reports.tolist() == [-1]


def losses_of(rng: np.random.Generator) -> np.ndarray:
    return rng.lognormal(sigma=1.5, size=N).astype(np.float32)


def trained(*, looks_ahead: bool, tells: bool, reports: int = 150) -> tuple[AutoAssist, np.ndarray]:
    """A policy whose instances have other losses in every epoch, known by looking ahead alone, and the last ones."""
    rng = np.random.default_rng(1)
    policy = AutoAssist(N, floor=0.05, gate=False, looks_ahead=looks_ahead)
    losses, position = losses_of(rng), 0
    for epoch in range(reports // 10):
        losses = losses_of(rng)
        for ids in rng.permutation(N).reshape(10, -1):
            if tells:
                policy.observe_fresh(ids, losses[ids])
            policy.observe(record(position, ids, losses[ids], epoch))
            position += 1
    losses = losses_of(rng)
    if tells:
        policy.observe_fresh(IDS, losses)
    return policy, losses


def test_what_is_hard_afresh_is_kept_though_its_history_says_otherwise() -> None:
    policy, losses = trained(looks_ahead=True, tells=True)
    keep = policy.keep_probability(IDS, MIDDLE)
    easy, hard = losses < np.quantile(losses, 0.3), losses > np.quantile(losses, 0.7)
    assert keep[hard].min() > keep[easy].max()
    blind, losses = trained(looks_ahead=False, tells=True)
    assert abs(np.corrcoef(losses, blind.keep_probability(IDS, MIDDLE))[0, 1]) < 0.2, "else its history tells"


def test_without_fresh_losses_it_keeps_as_if_there_were_none() -> None:
    policy, _ = trained(looks_ahead=True, tells=False)
    plain, _ = trained(looks_ahead=False, tells=False)
    assert policy.keep_probability(IDS, MIDDLE) == pytest.approx(plain.keep_probability(IDS, MIDDLE), rel=1e-5)


def test_where_some_are_known_afresh_each_is_judged_by_the_plain_formula() -> None:
    policy, _ = trained(looks_ahead=True, tells=True)
    assert policy.fresh is not None
    policy.fresh.forget(IDS[::2])  # as if they had been trained
    keep, found = policy.keep_probability(IDS, MIDDLE), policy.fresh.look_up(IDS)
    b = policy.model.coefficients
    for one in range(1, 40, 2):
        logarithm = math.log(min(max(float(found.relative[one]), 1e-3), 20.0))
        easiness, age = 0.25 * min(logarithm, 0.0) ** 2, math.log1p(1 / 64.0)
        expected = math.exp(min(max(float(b[-4:] @ np.array([1.0, logarithm, easiness, age])), -7.0), 3.0))
        assert keep[one] == pytest.approx(min(max(expected, 0.05), 1.0), rel=1e-4)
    history = AutoAssist(N, floor=0.05, gate=False, looks_ahead=True)
    history.load_state_dict(policy.state_dict())
    assert keep[::2] == pytest.approx(history.keep_probability(IDS, MIDDLE)[::2], rel=1e-5)


def test_fresh_losses_are_no_part_of_the_state_but_what_was_learned_of_them_is() -> None:
    policy, _ = trained(looks_ahead=True, tells=True)
    again = AutoAssist(N, floor=0.05, gate=False, looks_ahead=True)
    again.load_state_dict(policy.state_dict())
    assert np.array_equal(again.model.coefficients, policy.model.coefficients)
    assert again.fresh is not None and (again.fresh.look_up(IDS).age_reports == -1).all()


def test_a_state_of_a_run_that_did_not_look_ahead_is_refused() -> None:
    policy, _ = trained(looks_ahead=False, tells=False)
    with pytest.raises(ValueError, match="shape"):
        AutoAssist(N, floor=0.05, looks_ahead=True).load_state_dict(policy.state_dict())


def test_under_the_runs_options_fresh_losses_reach_the_policy() -> None:
    guarded = make_policy(RunSettings(), N, looks_ahead=True)
    guarded.observe_fresh(np.array([3]), np.array([2.0], dtype=np.float32))
    assert isinstance(guarded.policy, AutoAssist) and guarded.policy.fresh is not None
    assert guarded.policy.fresh.look_up(np.array([3])).relative.tolist() == [1.0]
