"""Sparse features give what the same dense ones give."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.classifier import OwnClassifier
from assistant.learned import LogisticModel, PaperModel
from protocol.sparse import SparseRows, values_a_row

IDS = np.array([4, 0, 4, 2])


@pytest.fixture
def dense() -> np.ndarray:
    """Six rows of five columns, one of them and the last column empty."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(6, 5)) * (rng.random((6, 5)) < 0.5)
    rows[2], rows[:, 4], rows[4, :2] = 0.0, 0.0, 1.5
    return rows.astype(np.float32)


def sparse_of(dense: np.ndarray) -> SparseRows:
    begins = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])
    return SparseRows(dense[dense != 0], np.nonzero(dense)[1].astype(np.int32), begins, dense.shape[1])


def test_rows_by_id_and_products_from_both_sides_are_those_of_the_dense_matrix(dense: np.ndarray) -> None:
    sparse, weights = sparse_of(dense), np.arange(5, dtype=np.float32)
    factors = np.array([0.5, -1.0, 2.0, 3.0], dtype=np.float32)
    assert (len(sparse), sparse.shape) == (6, (6, 5))
    assert np.allclose(sparse[IDS] @ weights, dense[IDS] @ weights)
    assert np.allclose(factors @ sparse[IDS], factors @ dense[IDS])
    assert (sparse[IDS] @ weights).dtype == (factors @ sparse[IDS]).dtype == np.float32


def test_no_rows_at_all_give_empty_products(dense: np.ndarray) -> None:
    none = sparse_of(dense)[np.empty(0, dtype=np.int64)]
    assert (none @ np.ones(5, dtype=np.float32)).shape == (0,)
    assert np.array_equal(np.empty(0, dtype=np.float32) @ none, np.zeros(5))


def test_values_a_row_counts_what_is_not_zero(dense: np.ndarray) -> None:
    assert values_a_row(sparse_of(dense)) == (dense != 0).sum() / 6
    assert values_a_row(dense) == 5.0


def test_the_models_of_an_assistant_learn_the_same_from_both(dense: np.ndarray) -> None:
    dense[dense == 0] = 0.25  # as many values a row, so that the step is the same
    targets, weights = np.array([1, 0, 1, 1], dtype=np.float32), np.ones(4, dtype=np.float32)
    history = np.zeros((4, 3), dtype=np.float32)
    found = []
    for features in (dense, sparse_of(dense)):
        ours, papers = LogisticModel(features, None), PaperModel(features, None)
        for _ in range(3):
            ours.learn(IDS, history, targets, weights)
            papers.learn(IDS, targets)
        found.append((ours.predict(IDS, history), papers.predict(IDS)))
    assert np.allclose(found[0], found[1], atol=1e-6) and not np.allclose(found[0], 0.5)


def test_a_classifier_of_its_own_wants_dense_features(dense: np.ndarray) -> None:
    labels = np.array([0, 1, 0, 1, 0, 1])
    assert OwnClassifier.where_possible(dense, labels) is not None
    assert OwnClassifier.where_possible(sparse_of(dense), labels) is None


def test_columns_that_nothing_has_slow_no_model_down(dense: np.ndarray) -> None:
    """Hashed words leave most columns empty."""
    narrow = sparse_of(dense)
    wide = SparseRows(narrow.values, narrow.columns, narrow.begins, 5000)
    targets, weights, history = np.array([1, 0, 1, 1], np.float32), np.ones(4, np.float32), np.zeros((4, 3), np.float32)
    found = []
    for features in (narrow, wide):
        model = LogisticModel(features, None)
        model.learn(IDS, history, targets, weights)
        found.append(model.predict(IDS, history))
    assert np.allclose(found[0], found[1])
