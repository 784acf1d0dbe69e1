"""Each published rule against its formula, on cases small enough to do by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from assistant.policies import AutoAssistPaper, Importance, ImportanceGradient, InfoBatch, Rho, SelectiveBackprop
from assistant.policies.base import Policy
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, record


def observed(policy: Policy, *losses: list[float], keep: list[float] | None = None) -> Policy:
    """The policy after reports on instances 0, 1, …, one per list."""
    for position, values in enumerate(losses):
        pi = None if keep is None else np.array(keep)
        policy.observe(record(position, np.arange(len(values)), np.array(values), position, pi))
    return policy


def pi_of(policy: Policy, *ids: int) -> list[float]:
    found: list[float] = policy.keep_probability(np.array(ids, dtype=np.int64), MIDDLE).tolist()
    return found


# The authors' rule


def test_paper_keeps_everything_before_it_has_learned_anything() -> None:
    """c = 0, so γ_t = max(γ, 1 - 0) = 1."""
    assert pi_of(AutoAssistPaper(floor=0.3), 0, 1) == [1.0, 1.0]


def test_paper_keeps_gamma_and_the_rest_by_the_logistic_model() -> None:
    """π = γ + (1 - γ)·σ(w·x + u[y])."""
    features = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    policy = AutoAssistPaper(floor=0.3, features=features, labels=np.array([0, 1]))
    policy.accuracy = 0.9
    policy.model.w[:], policy.model.u[:] = (0.5, -1.0), (0.1, 0.2)
    expected = [0.3 + 0.7 / (1.0 + math.exp(-0.6)), 0.3 + 0.7 / (1.0 + math.exp(1.8))]
    assert pi_of(policy, 0, 1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("accuracy, floor", [(0.2, 0.8), (0.6, 0.4), (0.95, 0.3)])
def test_paper_raises_gamma_while_its_accuracy_is_low(accuracy: float, floor: float) -> None:
    """γ_t = max(γ, 1 - c)."""
    policy = AutoAssistPaper(floor=0.3)
    policy.accuracy = accuracy
    policy.model.u[:] = -50.0
    assert pi_of(policy, 0) == pytest.approx([floor])


def test_paper_learns_by_plain_sgd_which_losses_lie_above_the_running_mean() -> None:
    """One report of 1, 1, 4: the mean is 2, z = 0, 0, 1; σ(0) = ½, so the mean gradient of w is Σ(½ - z)·x / 3."""
    features = np.array([[1.0], [2.0], [5.0]], dtype=np.float32)
    policy = AutoAssistPaper(floor=0.3, features=features, labels=np.array([0, 0, 1]))
    observed(policy, [1.0, 1.0, 4.0])
    assert policy.mean.value == pytest.approx(2.0)
    assert policy.model.w.tolist() == pytest.approx([-0.01 * (0.5 * 1 + 0.5 * 2 - 0.5 * 5) / 3])
    assert policy.model.u.tolist() == pytest.approx([-0.01 * 1.0 / 3, 0.01 * 0.5 / 3])
    assert policy.accuracy == pytest.approx(0.05 * 2 / 3)  # σ(0) = ½ predicts "trivial": right for two of three


def test_paper_decays_its_weights() -> None:
    """lr · λ / B of w in each step; where x is 0 there is nothing else."""
    policy = AutoAssistPaper(floor=0.3, features=np.zeros((2, 1), dtype=np.float32))
    policy.model.w[:] = 1.0
    observed(policy, [1.0, 2.0])
    assert policy.model.w[0] == pytest.approx(1.0 - 0.01 * 1e-3 / 2, abs=1e-9)


def test_paper_forgets_old_losses_by_a_quarter_per_report() -> None:
    """T = Σ 0.75^age · Σ losses / Σ 0.75^age · count, as in the authors' code, whatever π was."""
    policy = AutoAssistPaper(floor=0.3)
    observed(policy, [4.0, 4.0], [1.0, 1.0], keep=[0.5, 1.0])
    assert policy.mean.value == pytest.approx((0.75 * 8.0 + 2.0) / (0.75 * 2 + 2))


# InfoBatch


def test_infobatch_thins_what_lies_below_the_mean_of_the_last_losses() -> None:
    """Mean of 1, 2, 6 is 3."""
    policy = observed(InfoBatch(5, drop_rate=0.5), [1.0, 2.0, 6.0])
    assert pi_of(policy, 0, 1, 2) == [0.5, 0.5, 1.0]


def test_infobatch_keeps_what_has_no_loss_yet() -> None:
    policy = observed(InfoBatch(5, drop_rate=0.5), [1.0, 2.0, 6.0])
    assert pi_of(policy, 3, 4) == [1.0, 1.0]


def test_infobatch_counts_each_instance_once_with_its_last_loss() -> None:
    """Last losses 9, 2, 6 have the mean 17/3: now the first one is above it."""
    policy = observed(InfoBatch(3, drop_rate=0.25), [1.0, 2.0, 6.0], [9.0])
    assert pi_of(policy, 0, 1, 2) == [1.0, 0.75, 1.0]
    assert policy.mean.value == pytest.approx(17 / 3)  # type: ignore[attr-defined]


def test_infobatch_takes_the_last_loss_of_an_instance_that_a_report_has_twice() -> None:
    policy = InfoBatch(3, drop_rate=0.5)
    policy.observe(record(0, np.array([0, 1, 0]), np.array([8.0, 2.0, 4.0]), 0))
    assert policy.mean.value == pytest.approx(3.0)
    policy.observe(record(1, np.array([1, 1]), np.array([7.0, 0.0]), 1))
    assert policy.mean.value == pytest.approx(2.0)


def test_infobatch_mean_stays_that_of_the_table_over_many_reports() -> None:
    rng = np.random.default_rng(0)
    policy = InfoBatch(500, drop_rate=0.5)
    for position in range(300):
        ids = rng.integers(0, 400, size=64)
        policy.observe(record(position, ids, rng.exponential(size=64), position // 5))
    table = policy.instances.look_up(np.arange(500))
    assert policy.mean.value == pytest.approx(table.last_loss[table.is_seen].mean(), rel=1e-5)


# Selective-Backprop


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_selective_backprop_keeps_by_the_power_of_the_rank(power: float) -> None:
    """CDF of 1, 2, 3, 4: ¼, ½, ¾, 1."""
    policy = observed(SelectiveBackprop(5, power=power), [3.0, 1.0, 4.0, 2.0])
    assert pi_of(policy, 0, 1, 2, 3) == pytest.approx([0.75**power, 0.25**power, 1.0, 0.5**power])
    assert pi_of(policy, 4) == [1.0]


def test_selective_backprop_ranks_among_all_though_only_the_kept_are_reported() -> None:
    """The first stands for four like it (π = ¼), so its CDF is 4/6."""
    policy = observed(SelectiveBackprop(3, power=1.0), [1.0, 2.0, 3.0], keep=[0.25, 1.0, 1.0])
    assert pi_of(policy, 0, 1, 2) == pytest.approx([4 / 6, 5 / 6, 1.0])


# RHO


def test_rho_keeps_what_is_learnable_and_thins_the_rest() -> None:
    """Reducible losses 1, 0.5, 3, 0: the median splits them; a high loss alone is not enough."""
    irreducible = np.array([1.0, 5.0, 0.0, 2.0], dtype=np.float32)
    policy = observed(Rho(irreducible, drop_rate=0.5, floor=0.1), [2.0, 5.5, 3.0, 2.0])
    assert policy.threshold.value == pytest.approx(0.5)  # type: ignore[attr-defined]
    assert pi_of(policy, 0, 1, 2, 3) == pytest.approx([1.0, 1.0, 1.0, 0.1])


def test_rho_is_judged_by_the_reducible_loss() -> None:
    policy = Rho(np.array([1.0, 5.0], dtype=np.float32), drop_rate=0.5, floor=0.1)
    assert policy.utility(np.array([1, 0]), np.array([6.0, 3.0], dtype=np.float32)).tolist() == [1.0, 2.0]


# Importance sampling


def test_importance_is_proportional_to_the_loss_at_the_rate_that_is_asked_for() -> None:
    """Losses 0.5, 1, 1.5 have the mean 1: π = ½·loss."""
    policy = observed(Importance(4, drop_rate=0.5), [0.5, 1.0, 1.5])
    assert pi_of(policy, 0, 1, 2, 3) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_importance_by_the_gradient_is_proportional_to_the_probability_that_was_missed() -> None:
    """Losses ln 4 and ln 2 miss ¾ and ½, mean 5/8."""
    policy = observed(ImportanceGradient(2, drop_rate=0.5), [math.log(4), math.log(2)])
    assert pi_of(policy, 0, 1) == pytest.approx([0.5 * 0.75 / 0.625, 0.5 * 0.5 / 0.625])


def test_the_missed_probability_bounds_the_gradient_of_softmax_cross_entropy() -> None:
    """‖softmax - onehot‖ lies between 1 and √2 times 1 - exp(-loss)."""
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=3.0, size=(500, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = probabilities - np.eye(10)[0]
    norms, missed = np.linalg.norm(gradient, axis=1), -np.expm1(np.log(probabilities[:, 0]))
    assert (norms >= missed - 1e-9).all() and (norms <= math.sqrt(2) * missed + 1e-9).all()


def test_importance_with_its_weights_gives_the_mean_over_all() -> None:
    """E[Σ kept loss/π] = Σ loss; in 4,000 drawings to half a percent."""
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=200)
    policy = observed(Importance(200, drop_rate=0.5), losses.tolist())
    pi = np.clip(policy.keep_probability(np.arange(200), MIDDLE), 0.1, 1.0)
    kept = rng.random((4000, 200)) < pi
    assert (kept * (losses / pi)).sum(axis=1).mean() == pytest.approx(losses.sum(), rel=5e-3)
    assert RunSettings(policy="importance").weight_clip >= 1 / 0.1


# All of them


def make(name: str, tmp_path: Path) -> tuple[Policy, int]:
    from assistant.policies import make_policy

    n, rng = 300, np.random.default_rng(9)
    np.save(tmp_path / "irreducible.npy", rng.exponential(size=n).astype(np.float32))
    settings = RunSettings(
        policy=name, noise_guard="auto", class_floor=0.3, irreducible_losses=str(tmp_path / "irreducible.npy")
    )
    features = rng.normal(size=(n, 6)).astype(np.float32)
    return make_policy(settings, n, features, np.arange(n) % 5), n


def feed_random(policy: Policy, n: int, rng: np.random.Generator, records: int) -> None:
    hardness = 1.0 + np.arange(n) % 7
    for position in range(records):
        ids = rng.choice(n, size=48, replace=False)
        losses = rng.exponential(size=48) * hardness[ids] ** 2
        policy.observe(record(position, ids, losses, position // 6, rng.uniform(0.2, 1.0, size=48)))


NAMES = ["autoassist", "autoassist-paper", "uniform", "random-drop", "infobatch", "selective-backprop", "rho"]


@pytest.mark.parametrize("name", [*NAMES, "importance", "importance-gradient"])
def test_a_restored_policy_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    """Saved at a moment between two refreshes of its estimates, through a file."""
    (whole, n), (first, _), (second, _) = (make(name, tmp_path) for _ in range(3))
    feed_random(whole, n, rng := np.random.default_rng(1), 75)
    feed_random(first, n, again := np.random.default_rng(1), 75)
    np.savez(tmp_path / "state.npz", **first.state_dict())  # type: ignore[arg-type]
    with np.load(tmp_path / "state.npz", allow_pickle=False) as found:
        second.load_state_dict(dict(found))
    feed_random(whole, n, rng, 40)
    feed_random(second, n, again, 40)
    ids = np.arange(n)
    assert np.array_equal(whole.keep_probability(ids, MIDDLE), second.keep_probability(ids, MIDDLE))
    assert (whole.lift, whole.version, whole.figures) == (second.lift, second.version, second.figures)
    for key, values in whole.state_dict().items():
        assert np.array_equal(values, second.state_dict()[key], equal_nan=True), key


@pytest.mark.parametrize("name", [*NAMES, "importance", "importance-gradient"])
def test_asking_for_keep_probabilities_changes_nothing(name: str, tmp_path: Path) -> None:
    """What a policy knows is a function of the loss log alone, however often it was asked."""
    policy, n = make(name, tmp_path)
    feed_random(policy, n, np.random.default_rng(2), 30)
    before = policy.state_dict()
    policy.keep_probability(np.arange(n), MIDDLE)
    after = policy.state_dict()
    assert all(np.array_equal(before[key], after[key], equal_nan=True) for key in before)
