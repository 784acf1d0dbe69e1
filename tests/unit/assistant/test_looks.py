"""What the default policy computes for a whole window at once is, for each instance, what its formula says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from assistant.looks import OwnModels, padded
from assistant.policies import AutoAssist
from protocol.sparse import Features, SparseRows
from tests.unit.assistant.streams import MIDDLE, record

N, WIDTH, CLASSES = 600, 7, 5
SEEN, UNSEEN = np.arange(N // 2), np.arange(N // 2, N)


def data(kind: str) -> tuple[Features | None, np.ndarray | None]:
    """Features and labels: both, one of them, sparse ones, or none."""
    rng = np.random.default_rng(1)
    dense = (rng.normal(size=(N, WIDTH)) * (rng.random((N, WIDTH)) < 0.6)).astype(np.float32)
    labels = rng.integers(0, CLASSES, N)
    rows, columns = np.nonzero(dense)
    begins = np.searchsorted(rows, np.arange(N + 1))
    sparse = SparseRows(dense[rows, columns], columns.astype(np.int32), begins.astype(np.int64), WIDTH)
    kinds: dict[str, tuple[Features | None, np.ndarray | None]] = {
        "both": (dense, labels),
        "features": (dense, None),
        "labels": (None, labels),
        "sparse": (sparse, labels),
        "none": (None, None),
    }
    return kinds[kind]


def trained(kind: str) -> AutoAssist:
    """A policy that has seen the first half, in epochs 0 and 1, and would keep by what it has learned of it."""
    rng = np.random.default_rng(2)
    features, labels = data(kind)
    policy = AutoAssist(N, floor=0.01, features=features, labels=labels, gate=False)
    for position in range(40):
        ids = rng.choice(SEEN, size=48, replace=False)
        keep = rng.uniform(0.2, 1.0, size=48)
        policy.observe(record(position, ids, rng.exponential(size=48) * (1 + ids % 4), position // 20, keep))
    return policy


def row_of(features: Features, instance: int) -> np.ndarray:
    if isinstance(features, np.ndarray):
        return features[instance].astype(float)
    row = np.zeros(WIDTH)
    begin, end = features.begins[instance], features.begins[instance + 1]
    row[features.columns[begin:end]] = features.values[begin:end]
    return row


def own_loss(policy: AutoAssist, x: np.ndarray, label: int) -> float:
    """Cross entropy of the classifier, in double precision."""
    assert policy.own is not None and policy.own.classifier is not None
    classifier = policy.own.classifier
    logits = x @ classifier.weights.astype(float) + classifier.biases
    return min(16.0, math.log(np.exp(logits).sum()) - logits[label])


def log_of(value: float) -> float:
    return math.log(min(max(value, 1e-3), 20.0))


def easy(logarithm: float) -> float:
    return 0.25 * min(logarithm, 0.0) ** 2


def plain(policy: AutoAssist, instance: int, epoch: int, kind: str) -> float:
    """π of one instance, by the formula of the class, step by step in double precision."""
    features, labels = data(kind)
    found = policy.instances.look_up(np.array([instance]))
    seen, unseen, own = [0.0] * 5, [0.0, 0.0], [0.0, 0.0] if kind == "both" else []
    if found.is_seen[0]:
        last, mean = log_of(float(found.last_loss[0])), log_of(float(found.mean_loss[0]))
        seen = [1.0, last, mean, easy(mean), math.log1p(epoch - int(found.last_epoch[0]))]
    elif policy.own is None:
        unseen = [1.0, 0.0]
    else:
        model, label = policy.own.learned, 0 if labels is None else int(labels[instance])
        logit = float(model.u[label])
        if features is not None:
            logit += float(row_of(features, instance) @ model.w.astype(float))
        if kind == "both":
            assert features is not None
            loss = own_loss(policy, row_of(features, instance), label)
            logit += float(np.array([math.log1p(loss), 1.0 - math.exp(-loss)]) @ model.v)
            own = [log_of(loss), easy(log_of(loss) + 1.0)]
        unseen = [1.0, log_of(1.0 / (1.0 + math.exp(-logit)) / 0.3)]
    logarithm = float(np.array([*seen, *unseen, *own]) @ policy.model.coefficients)
    return min(max(math.exp(min(max(logarithm, -7.0), 3.0)), policy.floor), 1.0)


KINDS = ["both", "features", "labels", "sparse", "none"]
WINDOWS = {"seen": SEEN[:60], "unseen": UNSEEN[:60], "mixed": np.arange(270, 330), "nobody": SEEN[:0]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_gets_the_keep_probabilities_of_the_plain_formula(kind: str, window: str) -> None:
    policy, ids = trained(kind), WINDOWS[window]
    keep = policy.keep_probability(ids, MIDDLE)
    assert keep.dtype == np.float32
    assert keep == pytest.approx([plain(policy, int(i), MIDDLE.epoch, kind) for i in ids], rel=2e-5)
    if kind != "none" and len(ids):
        assert len(np.unique(keep)) > 1, "else there is nothing to compare"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_a_report_is_learned_from_as_if_each_model_had_fetched_its_features_itself(kind: str) -> None:
    features, labels = data(kind)
    together, apart = OwnModels(features, labels), OwnModels(features, labels)
    rng = np.random.default_rng(3)
    for _ in range(5):
        ids = rng.choice(N, size=32, replace=False)
        targets, weights = (rng.random(32) < 0.3).astype(np.float32), rng.uniform(1, 3, 32).astype(np.float32)
        together.learn(together.look(ids), targets, weights)
        columns = np.zeros((32, 0), dtype=np.float32)
        if apart.classifier is not None:
            columns = apart.classifier.loss_features(ids)
        apart.learned.learn(ids, columns, targets, weights)
        if apart.classifier is not None:
            apart.classifier.learn(ids, weights)
    for name, values in together.state_dict().items():
        assert values == pytest.approx(apart.state_dict()[name], rel=1e-4, abs=1e-6), name


def test_features_are_fetched_of_the_unseen_alone_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, fetched = trained("both"), list[list[int]]()
    look = OwnModels.look

    def counting(models: OwnModels, ids: np.ndarray) -> object:
        fetched.append(ids.tolist())
        return look(models, ids)

    monkeypatch.setattr(OwnModels, "look", counting)
    policy.keep_probability(SEEN[:50], MIDDLE)
    assert fetched == []
    policy.keep_probability(np.array([3, 310, 7, 305]), MIDDLE)
    assert fetched == [[310, 305]]
    policy.observe(record(40, np.array([3, 310]), np.ones(2), 2))
    assert fetched == [[310, 305], [310]]


@pytest.mark.parametrize(("rows", "wanted"), [(1, 4), (4, 4), (5, 8), (11, 12), (12, 12), (17, 20)])
def test_a_product_has_as_many_rows_as_are_fast(rows: int, wanted: int) -> None:
    assert padded(rows) == wanted


def test_whoever_has_features_in_a_memory_map_pays_no_more_for_it(tmp_path: Path) -> None:
    features, labels = data("both")
    assert isinstance(features, np.ndarray)
    mapped = np.memmap(tmp_path / "features", dtype=np.float32, mode="w+", shape=features.shape)
    mapped[...] = features
    models = OwnModels(mapped, labels)
    assert type(models.features) is np.ndarray and np.shares_memory(models.features, mapped)
