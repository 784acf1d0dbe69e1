"""What holds for every policy: warm-up, anneal, gate, floor, noise guard, class floor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assistant.drawing import draw
from assistant.policies import Guarded, Moment, Policy, make_policy
from assistant.policies.guards import BEGINNING, NoiseGuard, with_class_floor
from protocol.settings import POLICIES, RunSettings
from tests.unit.assistant.streams import MIDDLE, N, feed_epochs, record

ALL = np.arange(N, dtype=np.int64)
TWO_KINDS = np.where(ALL % 2 == 0, 0.1, 1.0)
"""Even instances are easy, odd ones hard."""


def known(settings: RunSettings, labels: np.ndarray | None = None) -> Guarded:
    """A policy that has seen two epochs of ``TWO_KINDS``."""
    policy = make_policy(settings, N, labels=labels)
    feed_epochs(policy, TWO_KINDS, 2, np.random.default_rng(0), permute=False)
    return policy


def live(policy: Policy, losses_of: object, epochs: int, seed: int = 3) -> list[float]:
    """Offer every instance once per epoch, draw, and report what was kept; returns the kept fraction of each epoch.

    ``losses_of(epoch, rng)`` gives the losses of all instances.
    """
    rng, fractions, position = np.random.default_rng(seed), [], 0
    for epoch in range(epochs):
        losses, kept_count = losses_of(epoch, rng), 0  # type: ignore[operator]
        for number, window in enumerate(np.array_split(rng.permutation(N), N // 256 + 1)):
            keep = policy.keep_probability(window, Moment(epoch, 0.5))
            kept = draw(seed, 1000 * epoch + number, keep)
            kept_count += int(kept.sum())
            for start in range(0, int(kept.sum()), 64):
                ids, pi = window[kept][start : start + 64], keep[kept][start : start + 64]
                policy.observe(record(position, ids, losses[ids], epoch, pi))
                position += 1
        fractions.append(kept_count / N)
    return fractions


# Warm-up, anneal, floor

FILTERING = ["autoassist", "random-drop", "infobatch", "selective-backprop", "importance", "importance-gradient"]


@pytest.mark.parametrize("name", FILTERING)
def test_every_policy_passes_everything_in_the_warm_up_and_in_the_anneal(name: str) -> None:
    policy = known(RunSettings(policy=name, warmup_epochs=2, anneal_share=0.25, window_size=8))
    assert (policy.keep_probability(ALL, Moment(1, 0.5)) == 1.0).all()
    assert policy.keep_probability(ALL, Moment(2, 0.74)).mean() < 0.9
    assert (policy.keep_probability(ALL, Moment(2, 0.76)) == 1.0).all()


@pytest.mark.parametrize("budget", [{"epochs": 2}, {"boss_instances": 2 * N}])
def test_a_warm_up_of_a_fraction_ends_within_an_epoch(budget: dict[str, int]) -> None:
    """Progress is that of the whole run, of two epochs here."""
    policy = make_policy(RunSettings(policy="random-drop", warmup_epochs=0.4, window_size=8, **budget), N)  # type: ignore[arg-type]
    passing = [(0, 0.0), (0, 0.2)], [(0, 0.21), (0, 0.5), (1, 0.51), (1, 0.1)]
    for moments, expected in zip(passing, (1.0, 0.5), strict=True):
        for epoch, progress in moments:
            assert policy.keep_probability(ALL[:1], Moment(epoch, progress))[0] == expected
    policy = make_policy(RunSettings(policy="random-drop", warmup_epochs=1.5, window_size=8, **budget), N)  # type: ignore[arg-type]
    kept = [policy.keep_probability(ALL[:1], Moment(*at))[0] for at in ((0, 0.5), (1, 0.6), (1, 0.75), (1, 0.76))]
    assert kept == [1.0, 1.0, 1.0, 0.5]


def test_without_warm_up_and_anneal_a_policy_shrinks_from_the_first_epoch_to_the_last() -> None:
    policy = known(RunSettings(policy="random-drop", warmup_epochs=0, anneal_share=0.0))
    assert policy.keep_probability(ALL[:1], Moment(0, 0.01))[0] == 0.5
    assert policy.keep_probability(ALL[:1], Moment(9, 1.0))[0] == 0.5


@pytest.mark.parametrize("name, floor", [("selective-backprop", 0.1), ("importance", 0.1), ("autoassist-paper", 0.3)])
def test_each_policy_has_a_floor_of_its_own_unless_the_run_sets_one(name: str, floor: float) -> None:
    assert make_policy(RunSettings(policy=name), N).floor == floor
    assert make_policy(RunSettings(policy=name, floor=0.2), N).floor == 0.2


def test_nothing_falls_below_the_floor() -> None:
    policy = known(RunSettings(policy="importance", floor=0.4))
    keep = policy.keep_probability(ALL, MIDDLE)
    assert keep.min() == pytest.approx(0.4) and keep.max() <= 1.0


def test_random_drop_meets_any_rate() -> None:
    """As the control of a policy that keeps little, it must be able to keep as little."""
    policy = make_policy(RunSettings(policy="random-drop", drop_rate=0.97), N)
    assert policy.keep_probability(ALL[:2], MIDDLE) == pytest.approx([0.03, 0.03])


# The gate


def test_the_authors_rule_on_random_features_goes_back_to_the_full_epoch_by_itself() -> None:
    """The features say nothing of the losses, so nothing is shrunk, whatever the model believes."""
    rng = np.random.default_rng(2)
    losses, features = rng.exponential(size=N) ** 2, rng.normal(size=(N, 20)).astype(np.float32)
    policy = make_policy(RunSettings(policy="autoassist-paper"), N, features)
    assert min(live(policy, lambda epoch, rng: losses, 8)) == 1.0
    bare = policy.policy.keep_probability(ALL, MIDDLE)
    assert bare.mean() < 0.6


def test_without_the_gate_the_authors_rule_shrinks_on_random_features_too() -> None:
    """Exactly the authors' rule: it cannot know that it is useless."""
    rng = np.random.default_rng(2)
    losses, features = rng.exponential(size=N) ** 2, rng.normal(size=(N, 20)).astype(np.float32)
    policy = make_policy(RunSettings(policy="autoassist-paper", gate=False), N, features)
    assert live(policy, lambda epoch, rng: losses, 4)[-1] < 0.7


def test_the_authors_rule_on_telling_features_shrinks() -> None:
    features = np.random.default_rng(2).normal(size=(N, 20)).astype(np.float32)
    policy = make_policy(RunSettings(policy="autoassist-paper"), N, features)
    assert live(policy, lambda epoch, rng: np.exp(1.5 * features[:, 0]), 4)[-1] < 0.7
    assert policy.lift[0] > 10 * policy.lift[1] > 0.0


@pytest.mark.parametrize("name", ["autoassist", "infobatch", "selective-backprop", "importance"])
@pytest.mark.parametrize("seed", range(3))
def test_losses_permuted_among_the_instances_go_back_to_the_full_epoch_by_themselves(name: str, seed: int) -> None:
    """Yesterday's loss says nothing of today's. Heavy tails, as losses have."""
    policy = make_policy(RunSettings(policy=name), N)
    fractions = live(policy, lambda epoch, rng: rng.permutation(rng.exponential(size=N) ** 2), 8, seed)
    assert np.mean(fractions) > 0.99 and fractions[-1] > 0.97


@pytest.mark.parametrize("name", ["autoassist", "infobatch", "selective-backprop", "importance"])
def test_a_gate_that_was_open_closes_when_the_losses_stop_telling(name: str) -> None:
    """Each instance has its own loss for four epochs, and another's from then on."""
    policy = make_policy(RunSettings(policy=name), N)

    def losses_of(epoch: int, rng: np.random.Generator) -> np.ndarray:
        return TWO_KINDS if epoch < 4 else rng.permutation(TWO_KINDS)

    fractions = live(policy, losses_of, 14)
    assert fractions[3] < 0.8 and fractions[-1] > 0.97


@pytest.mark.parametrize("name", ["autoassist", "infobatch", "selective-backprop", "importance"])
def test_losses_that_fall_with_time_are_no_lift(name: str) -> None:
    """The mean falls from 2 to 0.1 within the epoch, alike for all: late reports are not easier instances."""
    rng = np.random.default_rng(4)
    policy = make_policy(RunSettings(policy=name), N)
    steps = 3 * N // 64
    for position in range(steps):
        ids = rng.choice(N, size=64, replace=False)
        losses = rng.exponential(size=64) * 2.0 * 0.05 ** (position / steps)
        policy.observe(record(position, ids, losses, position * 64 // N))
    assert policy.keep_probability(ALL, MIDDLE).mean() > 0.97


def test_the_controls_shrink_without_knowing_anything() -> None:
    assert known(RunSettings(policy="random-drop")).keep_probability(ALL, MIDDLE).mean() == pytest.approx(0.5)


def test_the_gate_judges_rho_by_the_reducible_loss(tmp_path: object) -> None:
    """High losses that cannot be reduced are shrunk, so the kept have the lower mean loss; the lift is positive."""
    irreducible = np.where(ALL % 4 == 1, 3.0, 0.0).astype(np.float32)
    path = f"{tmp_path}/irreducible.npy"
    np.save(path, irreducible)
    policy = make_policy(RunSettings(policy="rho", irreducible_losses=path, drop_rate=0.5), N)
    losses = irreducible + np.where(ALL % 2 == 0, 1.0, 0.1)
    feed_epochs(policy, losses, 2, np.random.default_rng(0), permute=False)
    keep = policy.keep_probability(ALL, MIDDLE)
    assert keep[ALL % 2 == 0].min() == 1.0 and keep[ALL % 2 == 1].max() == pytest.approx(0.1)
    assert policy.lift[0] > 0.5


# The noise guard


def noisy(epoch: int, rng: np.random.Generator) -> np.ndarray:
    """Losses as of a network that learns: all begin at 2.3; every tenth is wrongly labelled and climbs to 5, the others
    fall to 0.1, with a tail of hard ones that are learned late and cross 2.3 now and then."""
    progress = min(1.0, epoch / 4)
    right = rng.exponential(size=N) * (2.3 * (1 - progress) + 0.1 * progress)
    right = np.where(ALL % 7 == 1, right + 1.5 * (1 - progress / 2) * rng.random(N), right)
    wrong = 2.3 + 2.7 * progress + rng.normal(scale=0.8, size=N)
    losses: np.ndarray = np.where(ALL % 10 == 0, wrong, right) if epoch else rng.gamma(20, 2.3 / 20, size=N)
    return losses


def test_the_guard_finds_wrong_labels_and_hardly_anything_else() -> None:
    guard, rng = NoiseGuard(N), np.random.default_rng(0)
    for epoch in range(8):
        losses = noisy(epoch, rng).astype(np.float32)
        for ids in np.array_split(rng.permutation(N), N // 64):
            guard.observe(ids, losses[ids])
    found = guard.is_set_aside(ALL)
    assert guard.level == pytest.approx(2.3, abs=0.1)
    assert found[ALL % 10 == 0].mean() > 0.95 and found[ALL % 10 != 0].mean() < 0.005
    assert set(guard.set_aside) == set(np.flatnonzero(found)) and guard.found == found.sum()


def wrong_share(policy: Guarded) -> float:
    keep = policy.keep_probability(ALL, MIDDLE)
    return float(keep[ALL % 10 == 0].sum() / keep.sum())


@pytest.mark.parametrize("name", ["autoassist", "importance", "selective-backprop", "infobatch"])
def test_with_the_guard_wrong_labels_are_no_larger_a_part_of_the_trained_than_of_the_data(name: str) -> None:
    """Hard mining alone makes them several times as large a part; the guard makes them smaller than their tenth."""
    unguarded, guarded = (make_policy(RunSettings(policy=name, noise_guard=g), N) for g in ("off", "on"))
    live(unguarded, noisy, 8)
    live(guarded, noisy, 8)
    assert wrong_share(guarded) < 0.1 < wrong_share(unguarded)
    assert guarded.figures["set_aside"] > 0.85 * N / 10 and "set_aside" not in unguarded.figures


def test_what_is_set_aside_stays_so_in_the_anneal_and_under_a_closed_gate_and_not_in_the_warm_up() -> None:
    policy = make_policy(RunSettings(noise_guard="on", warmup_epochs=1), N)
    assert policy.noise is not None
    policy.noise.streak[:5] = 3
    assert policy.keep_probability(ALL[:6], Moment(1, 0.5)).tolist() == pytest.approx([0.05] * 5 + [1.0])
    assert policy.keep_probability(ALL[:6], Moment(9, 0.99)).tolist() == pytest.approx([0.05] * 5 + [1.0])
    assert (policy.keep_probability(ALL[:6], Moment(0, 0.5)) == 1.0).all()


def test_by_itself_the_guard_acts_only_where_more_is_found_than_clean_data_has() -> None:
    """Every hundredth is ambiguous: nothing is set aside; every twentieth: they all are; and back again."""
    guard, high, low = NoiseGuard(N, by_itself=True), np.float32(3.0), np.float32(0.5)
    guard.observe(ALL[:BEGINNING], np.full(BEGINNING, 2.0, dtype=np.float32))
    for every, found in ((100, 0), (20, N // 20), (100, 0)):
        for _ in range(3):
            guard.observe(ALL, np.where(ALL % every == 0, high, low))
        assert guard.is_set_aside(ALL).sum() == len(guard.set_aside) == found
        assert guard.found == N // every
    guard.observe(np.array([0, 0, 1]), np.array([0.5, 0.5, 3.0], dtype=np.float32))  # twice in a report counts once
    assert guard.found == N // 100 - 1


@pytest.mark.parametrize("name", POLICIES)
def test_the_default_policy_is_guarded_by_itself_and_no_control_or_published_rule_is(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "irreducible.npy", np.zeros(N, dtype=np.float32))
    given = {"policy": name, "irreducible_losses": str(tmp_path / "irreducible.npy")}
    by_default, asked = (make_policy(RunSettings(**given, **more), N) for more in ({}, {"noise_guard": "on"}))
    assert (by_default.noise is not None) == (name == "autoassist")
    assert by_default.noise is None or by_default.noise.by_itself
    assert asked.noise is not None and not asked.noise.by_itself


def test_the_default_policy_sets_wrong_labels_aside_by_itself() -> None:
    policy = make_policy(RunSettings(), N)
    live(policy, noisy, 8)
    assert wrong_share(policy) < 0.1 and policy.figures["set_aside"] > 0.85 * N / 10


def test_by_itself_the_guard_waits_until_the_boss_has_learned() -> None:
    """Half of all lie above an untrained Boss's mean loss while nothing is learned; none of them is wrong for that."""
    guard, untrained = NoiseGuard(N, by_itself=True), np.linspace(1.0, 3.0, N, dtype=np.float32)
    for _ in range(5):
        guard.observe(ALL, untrained)
    assert guard.found > 0.4 * N and not guard.is_set_aside(ALL).any()
    learned = np.where(ALL % 10 == 0, np.float32(3.0), np.float32(0.9))
    for _ in range(3):
        guard.observe(ALL, learned)
    assert set(guard.set_aside) == set(ALL[ALL % 10 == 0])


def test_the_median_that_the_guard_waits_for_is_that_of_all_instances_not_of_those_that_passed() -> None:
    """A tenth passes at π = 1 with a high loss, the rest at 0.1 with a low one: as many reports of each."""
    guard = NoiseGuard(N, by_itself=True)
    guard.observe(ALL[:BEGINNING], np.full(BEGINNING, 2.0, dtype=np.float32))
    ids = np.concatenate([ALL[: N // 10], ALL[-N // 10 :]])
    high = ids < N // 10
    for _ in range(40):
        losses = np.where(high, np.float32(3.0), np.float32(0.1))
        guard.observe(ids, losses, np.where(high, np.float32(1.0), np.float32(10.0)))
    assert guard.is_set_aside(ids).tolist() == high.tolist()


def test_the_guard_goes_on_from_its_state() -> None:
    first, second = (NoiseGuard(N, by_itself=True) for _ in range(2))
    first.observe(ALL[:BEGINNING], np.full(BEGINNING, 2.0, dtype=np.float32))
    for _ in range(3):
        first.observe(ALL, np.where(ALL % 10 == 0, np.float32(3.0), np.float32(0.5)))
    second.load_state_dict(first.state_dict())
    assert len(second.set_aside) == N // 10 and second.set_aside.tolist() == first.set_aside.tolist()


def test_one_loss_below_the_level_brings_an_instance_back() -> None:
    guard = NoiseGuard(N)
    guard.observe(ALL[:BEGINNING], np.full(BEGINNING, 2.0, dtype=np.float32))
    for _ in range(300):
        guard.observe(ALL[:2], np.array([3.0, 1.9], dtype=np.float32))
    assert guard.is_set_aside(ALL[:2]).tolist() == [True, False]
    guard.observe(ALL[:1], np.array([1.0], dtype=np.float32))
    assert not guard.is_set_aside(ALL[:1])[0]


# The class floor


def class_shares(keep: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Frequency of each class among the kept, as a part of its frequency among all."""
    _, classes = np.unique(labels, return_inverse=True)
    kept, all_ = np.bincount(classes, weights=keep) / keep.sum(), np.bincount(classes) / len(labels)
    return np.asarray(kept / all_)


def test_the_class_floor_on_two_classes_by_hand() -> None:
    """Half at π = 1, half at 0.1, share 0.8: the second needs m₂ = 0.8·(1 + m₂)/2, so m₂ = 2/3."""
    keep = np.array([1.0, 1.0, 0.1, 0.1], dtype=np.float32)
    found = with_class_floor(keep, np.array([0, 0, 1, 1]), 0.8)
    assert found.tolist() == pytest.approx([1.0, 1.0, 2 / 3, 2 / 3], abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_no_class_falls_below_its_share_and_the_order_within_it_stays(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(20, size=256, p=(p := rng.exponential(size=20) ** 2) / p.sum())
    keep = np.clip(rng.random(256) * rng.random(20)[labels], 0.05, 1.0).astype(np.float32)
    found = with_class_floor(keep, labels.astype(np.int64), share)
    assert class_shares(found, labels).min() >= share - 1e-4
    assert (found >= keep - 1e-6).all() and found.max() <= 1.0
    for label in np.unique(labels):
        mine = labels == label
        assert (np.argsort(keep[mine], kind="stable") == np.argsort(found[mine], kind="stable")).all()
    if share == 0.0:
        assert np.array_equal(found, keep)


def test_a_run_with_a_class_floor_keeps_an_easy_class_in_the_training() -> None:
    labels = (ALL % 2).astype(np.int64)  # class 0 is the easy one
    free, held = (known(RunSettings(class_floor=floor), labels) for floor in (0.0, 0.7))
    window = ALL[:256]
    assert class_shares(free.keep_probability(window, MIDDLE), labels[window])[0] < 0.4
    assert class_shares(held.keep_probability(window, MIDDLE), labels[window])[0] == pytest.approx(0.7, abs=1e-3)
