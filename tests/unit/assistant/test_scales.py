"""Features of 10^20 and more: every model stays finite, warns of nothing, and still learns what they tell."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from assistant.learned import PaperModel
from assistant.looks import OwnModels
from assistant.policies import make_policy
from assistant.scales import LARGEST, column_scales, rows_of
from protocol.settings import RunSettings
from protocol.sparse import Features, SparseRows
from tests.unit.assistant.streams import MIDDLE, record
from tests.unit.assistant.streams import N as STREAM
from tests.unit.assistant.test_condensed import image_like

N, WIDTH, LARGE = 600, 5, 3
GREATEST = float(np.finfo(np.float32).max)


def numbers(largest: float, n: int = N, width: int = WIDTH) -> np.ndarray:
    """Of which one column goes up to ``largest``; it alone says to which class a row belongs."""
    features = image_like(n, width)
    features[:, LARGE] = np.random.default_rng(1).uniform(-1.0, 1.0, n) * largest
    features[:2, LARGE] = -largest, largest
    return features


def sparse(features: np.ndarray) -> SparseRows:
    n, width = features.shape
    columns = np.tile(np.arange(width, dtype=np.int32), n)
    return SparseRows(features.ravel(), columns, np.arange(n + 1, dtype=np.int64) * width, width)


@pytest.mark.parametrize("kind", ["dense", "sparse", "mapped"])
def test_a_column_of_large_numbers_is_divided_by_its_largest_and_no_other(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense, ids = numbers(1e20), np.array([5, 0, 599])
    np.save(tmp_path / "features.npy", dense)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    features: Features = {"dense": dense, "sparse": sparse(dense), "mapped": mapped}[kind]
    with caplog.at_level(logging.INFO):
        scales = column_scales(features)
    found = rows_of(features, ids, scales)
    values = found.values.reshape(3, WIDTH) if isinstance(found, SparseRows) else found
    expected = dense[ids].astype(np.float64)
    expected[:, LARGE] /= 1e20
    assert values == pytest.approx(expected, rel=1e-6)
    assert "1 of 5 columns hold numbers above 1e+12 and are divided by their largest, column 3 by 1e+20" in caplog.text
    assert np.array_equal(mapped, dense)


@pytest.mark.parametrize("row", [0, 299, 599])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_single_large_number_is_found_wherever_it_stands(
    row: int, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant.scales.CHUNK_VALUES", 7 * WIDTH)
    features = numbers(1.0)
    assert column_scales(features) is None and column_scales(sparse(features)) is None
    features[row, 1] = sign * 2 * LARGEST
    for kind in (features, sparse(features)):
        scales = column_scales(kind)
        assert scales is not None and scales == pytest.approx([1, 0.5 / LARGEST, 1, 1, 1])


@pytest.mark.parametrize("largest", [1e15, 1e20, GREATEST])
@pytest.mark.parametrize("kind", ["table", "columns", "image", "sparse", "no labels"])
@pytest.mark.parametrize("policy_name", ["autoassist", "autoassist-paper"])
def test_selection_goes_on_with_large_numbers_and_without_a_warning(
    kind: str, largest: float, policy_name: str
) -> None:
    """Warnings are errors here. Where the column is in its upper quarter rows lose five times as much as the others; of
    half of the rows nothing but the features is known."""
    dense = numbers(largest, STREAM, 300 if kind == "image" else 130 if kind == "columns" else WIDTH)
    if kind == "columns":  # all of them are large, and independent of each other
        dense = np.random.default_rng(2).uniform(-largest, largest, dense.shape).astype(np.float32)
    is_hard = dense[:, LARGE] > largest / 2
    labels = None if kind == "no labels" else is_hard.astype(np.int64)
    settings = RunSettings(policy=policy_name, gate=False)
    policy = make_policy(settings, STREAM, sparse(dense) if kind == "sparse" else dense, labels)
    for position, ids in enumerate(np.array_split(np.arange(STREAM // 2), 40)):
        policy.observe(record(position, ids, np.where(is_hard, 5.0, 1.0)[ids], 0))
    unseen = np.arange(STREAM // 2, STREAM)
    keep, is_hard = policy.keep_probability(unseen, MIDDLE), is_hard[unseen]
    assert np.isfinite(keep).all() and keep[is_hard].mean() > keep[~is_hard].mean()
    assert all(np.isfinite(values).all() for name, values in policy.state_dict().items() if "own" in name)


def test_large_numbers_tell_unseen_instances_apart_as_small_ones_do() -> None:
    """The same features in another unit: the same predictions."""
    found = []
    for unit in (1.0, 1e20):
        features = numbers(1.0)
        features[:, LARGE] *= np.float32(unit)
        labels = (numbers(1.0)[:, LARGE] > 0).astype(np.int64)
        own, paper = OwnModels(features, labels), PaperModel(features, labels)
        for ids in np.array_split(np.arange(N // 2), 10):
            targets = labels[ids].astype(np.float32)
            own.learn(own.look(ids), targets, np.ones(len(ids), dtype=np.float32))
            paper.learn(ids, targets)
        unseen = np.arange(N // 2, N)
        found.append(np.concatenate([own.predict(own.look(unseen)), paper.predict(unseen)]))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert np.ptp(found[0]) > 0.1


def test_wide_features_are_condensed_by_what_their_large_column_tells_beside_the_others() -> None:
    features = image_like()
    labels = np.arange(len(features)) % 2
    plain = OwnModels(features.copy(), labels).features
    large = features.copy()
    large[:, LARGE] *= np.float32(1e20)
    found = OwnModels(large, labels).features
    assert isinstance(found, np.ndarray) and isinstance(plain, np.ndarray)
    assert found.shape == plain.shape and np.isfinite(found).all()
    ours, theirs = found.astype(np.float64), plain.astype(np.float64)
    assert np.corrcoef((ours @ ours[:5].T).ravel(), (theirs @ theirs[:5].T).ravel())[0, 1] > 0.99
