"""Losses known afresh count in their own unit, until the instance is trained; the default policy keeps by them."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.fresh import FreshLosses
from assistant.policies import AutoAssist, make_policy
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, record

N = 400
IDS = np.arange(N)
FLOOR = 0.05


def test_a_fresh_loss_is_in_units_of_the_mean_of_what_was_looked_at() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3, 5]), np.array([1.0, 3.0], dtype=np.float32))
    assert fresh.look_up(np.array([3, 4, 5])).tolist() == [0.5, 0.0, 1.5]


def test_a_loss_of_zero_is_known_and_small() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3, 5]), np.array([0.0, 2.0], dtype=np.float32))
    assert 0.0 < fresh.look_up(np.array([3]))[0] < 1e-5


def test_it_is_forgotten_when_its_instance_is_trained() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3, 5]), np.ones(2, dtype=np.float32))
    fresh.forget(np.array([5, 6]))
    assert fresh.look_up(np.array([3, 5, 6])).tolist() == [1.0, 0.0, 0.0]


def test_losses_that_are_zero_or_negative_in_the_mean_have_no_unit_and_are_not_noted() -> None:
    fresh = FreshLosses(N)
    fresh.note(np.array([3, 4]), np.array([-3.0, 1.0], dtype=np.float32))
    assert fresh.look_up(np.array([3, 4])).tolist() == [0.0, 0.0]


def losses_of(rng: np.random.Generator) -> np.ndarray:
    return rng.lognormal(sigma=1.5, size=N).astype(np.float32)


def trained(*, looks_ahead: bool, tells: bool, gate: bool = False) -> tuple[AutoAssist, np.ndarray]:
    """A policy whose instances have other losses in every epoch, known by looking ahead alone; and the last ones."""
    rng = np.random.default_rng(1)
    policy = AutoAssist(N, floor=FLOOR, gate=gate, looks_ahead=looks_ahead)
    position = 0
    for epoch in range(15):
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


def test_what_is_known_afresh_is_kept_by_its_loss_and_the_rest_by_its_history() -> None:
    policy, losses = trained(looks_ahead=True, tells=True)
    blind, _ = trained(looks_ahead=False, tells=False)
    assert policy.fresh is not None
    policy.fresh.forget(IDS[::2])  # as if they had been trained
    keep = policy.keep_probability(IDS, MIDDLE)
    known = np.clip(losses[1::2] / policy.fresh.mean.value, FLOOR, 1.0)
    assert keep[1::2] == pytest.approx(known, rel=1e-5)
    assert keep[::2] == pytest.approx(blind.keep_probability(IDS, MIDDLE)[::2], rel=1e-5)


def test_the_gate_opens_by_losses_that_only_looking_ahead_can_tell() -> None:
    sighted, _ = trained(looks_ahead=True, tells=True, gate=True)
    blind, _ = trained(looks_ahead=False, tells=False, gate=True)
    assert (sighted.keep_probability(IDS, MIDDLE) < 1.0).any()
    assert (blind.keep_probability(IDS, MIDDLE) == 1.0).all()


def test_the_gate_stays_shut_where_what_is_looked_at_says_nothing_of_what_is_reported() -> None:
    """As with a snapshot of another network."""
    rng = np.random.default_rng(1)
    policy = AutoAssist(N, floor=FLOOR, looks_ahead=True)
    for position in range(150):
        ids = rng.choice(N, 40, replace=False)
        policy.observe_fresh(ids, losses_of(rng)[ids])
        policy.observe(record(position, ids, losses_of(rng)[ids], position))
    policy.observe_fresh(IDS, losses_of(rng))
    assert (policy.keep_probability(IDS, MIDDLE) == 1.0).all()


def test_fresh_losses_are_no_part_of_the_state() -> None:
    policy, _ = trained(looks_ahead=True, tells=True)
    again = AutoAssist(N, floor=FLOOR, gate=False)
    again.load_state_dict(policy.state_dict())
    assert policy.fresh is not None
    policy.fresh.forget(IDS)
    assert np.array_equal(again.keep_probability(IDS, MIDDLE), policy.keep_probability(IDS, MIDDLE))


def test_a_loss_that_comes_late_is_of_use_in_the_next_epoch() -> None:
    """Where the looker is slower than the run nearly all do; to drop them would leave it without any."""
    policy, ids = AutoAssist(N, floor=FLOOR, looks_ahead=True), np.array([3, 5])
    ones = np.ones(2, dtype=np.float32)
    policy.observe(record(0, ids[:1], ones[:1], 7))
    policy.observe_fresh(ids, ones)
    assert policy.fresh is not None and policy.fresh.look_up(ids).tolist() == [1.0, 1.0]


def test_under_the_runs_options_fresh_losses_reach_the_policy() -> None:
    guarded = make_policy(RunSettings(), N, looks_ahead=True)
    guarded.observe_fresh(np.array([3]), np.array([2.0], dtype=np.float32))
    assert isinstance(guarded.policy, AutoAssist) and guarded.policy.fresh is not None
    assert guarded.policy.fresh.look_up(np.array([3])).tolist() == [1.0]
