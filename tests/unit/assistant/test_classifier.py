"""The Assistant's own classifier, and what the default policy makes of its losses where an instance has none."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.classifier import MOST_LOSS, MOST_WEIGHTS, OwnClassifier
from assistant.estimates import State
from assistant.policies import AutoAssist, Moment, make_policy
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, N, feed_epochs

CLASSES = 4
ONES = np.ones(64, dtype=np.float32)


def looks(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, and which instances look like another class than their own: every fifth."""
    labels = rng.integers(0, CLASSES, n)
    odd = np.arange(n) % 5 == 0
    shown = np.where(odd, (labels + 1) % CLASSES, labels)
    features = (np.eye(CLASSES)[shown] * 3.0 + rng.normal(size=(n, CLASSES))).astype(np.float32)
    return features, labels.astype(np.int64), odd


def test_before_it_has_learned_every_class_is_as_likely() -> None:
    features, labels, _ = looks(np.random.default_rng(0), 8)
    assert OwnClassifier(features, labels).losses(np.arange(8)) == pytest.approx(np.log(CLASSES))


def test_the_first_step_is_adagrad_s_on_the_weighted_gradient_of_the_cross_entropy() -> None:
    features = np.array([[1.0, 2.0], [3.0, -1.0]], dtype=np.float32)
    classifier = OwnClassifier(features, np.array([0, 1]))
    classifier.learn(np.arange(2), np.array([3.0, 1.0], dtype=np.float32))
    residuals = np.array([[-0.5, 0.5], [0.5, -0.5]]) * [[0.75], [0.25]]
    gradient = features.T @ residuals
    expected = -0.3 / 2**0.5 * gradient / np.sqrt(1e-3 + gradient**2)
    assert classifier.weights == pytest.approx(expected, rel=1e-5)


def test_it_comes_to_lose_most_on_what_looks_like_another_class() -> None:
    features, labels, odd = looks(np.random.default_rng(1), 2 * N)
    classifier = OwnClassifier(features, labels)
    for ids in np.array_split(np.arange(N), N // 64):
        classifier.learn(ids, np.ones(len(ids), dtype=np.float32))
    unseen = np.arange(N, 2 * N)
    losses = classifier.losses(unseen)
    assert losses[odd[unseen]].mean() > 3 * losses[~odd[unseen]].mean()
    columns = classifier.loss_features(unseen)
    assert columns[:, 0] == pytest.approx(np.log1p(losses))
    assert columns[:, 1] == pytest.approx(1 - np.exp(-losses), abs=1e-6)


def test_a_loss_is_bounded_however_sure_it_is() -> None:
    features = np.array([[1e4], [-1e4]], dtype=np.float32)
    classifier = OwnClassifier(features, np.array([0, 1]))
    classifier.learn(np.arange(2), ONES[:2])
    classifier.labels = np.array([1, 0])
    assert classifier.losses(np.arange(2)) == pytest.approx(MOST_LOSS)


@pytest.mark.parametrize("missing", ["features", "labels", "classes", "room"])
def test_without_something_to_classify_or_with_too_much_there_is_none(missing: str) -> None:
    features, labels, _ = looks(np.random.default_rng(0), 8)
    given: dict[str, np.ndarray | None] = {"features": features, "labels": labels}
    if missing == "classes":
        given["labels"] = np.zeros_like(labels)
    elif missing == "room":
        given["labels"] = np.full_like(labels, MOST_WEIGHTS // CLASSES)
    else:
        given[missing] = None
    assert OwnClassifier.where_possible(given["features"], given["labels"]) is None
    assert OwnClassifier.where_possible(features, labels) is not None


def policy_of(rng: np.random.Generator) -> tuple[AutoAssist, np.ndarray]:
    """One that has seen the first half, where what looks like another class has the loss of a hard one."""
    features, labels, odd = looks(rng, 2 * N)
    policy = AutoAssist(2 * N, floor=0.1, features=features, labels=labels)
    feed_epochs(policy, np.where(odd, 3.0, 0.1)[:N], 1, rng, permute=False)
    return policy, odd


def test_unseen_instances_that_look_like_another_class_pass_and_the_others_are_shrunk() -> None:
    """Each class and each look alone is as hard as any other: no logistic model of both can tell."""
    policy, odd = policy_of(np.random.default_rng(2))
    unseen = np.arange(N, 2 * N)
    keep = policy.keep_probability(unseen, MIDDLE)
    assert keep[odd[unseen]].mean() > 0.9 > 0.65 > keep[~odd[unseen]].mean()


def test_a_policy_with_a_classifier_goes_on_from_its_checkpoint() -> None:
    policy, _ = policy_of(np.random.default_rng(3))
    features, labels, _ = looks(np.random.default_rng(3), 2 * N)
    other = AutoAssist(2 * N, floor=0.1, features=features, labels=labels)
    state: State = policy.state_dict()
    other.load_state_dict(state)
    unseen = np.arange(N, 2 * N)
    assert np.array_equal(other.keep_probability(unseen, MIDDLE), policy.keep_probability(unseen, MIDDLE))
    for made in (policy, other):
        feed_epochs(made, np.full(N, 0.5), 1, np.random.default_rng(4), permute=False)
    assert all(np.array_equal(values, other.state_dict()[name]) for name, values in policy.state_dict().items())


@pytest.mark.parametrize(("warmup", "least", "most"), [(0.1, 0.4, 0.8), (1.0, 1.0, 1.0)])
def test_in_the_only_epoch_of_a_run_selection_begins_where_its_warm_up_ends(
    warmup: float, least: float, most: float
) -> None:
    """Data seen once: whoever has a loss does not come again, whoever comes has none."""
    features, labels, odd = looks(np.random.default_rng(5), 2 * N)
    policy = make_policy(RunSettings(epochs=1, warmup_epochs=warmup), 2 * N, features, labels)
    feed_epochs(policy, np.where(odd, 3.0, 0.1)[:N], 1, np.random.default_rng(5), permute=False)
    keep = policy.keep_probability(np.arange(N, 2 * N), Moment(0, 0.6))
    assert least <= keep.mean() <= most
    assert (policy.keep_probability(np.arange(N, 2 * N), Moment(0, 0.05)) == 1.0).all()
