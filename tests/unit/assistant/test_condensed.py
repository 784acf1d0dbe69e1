"""Features made short: when, how well, and that the models predict from them as from the long ones."""

from __future__ import annotations

import numpy as np
import pytest

from assistant import condensed as module
from assistant.condensed import COMPONENTS, SHORTEST, SPREAD, condensed, principal_axes
from assistant.looks import OwnModels
from protocol.sparse import SparseRows

N, WIDTH, SEED = 3000, 300, 7


def image_like(n: int = N, width: int = WIDTH) -> np.ndarray:
    """Columns that depend on each other: a few directions hold most of the variance, as in images."""
    rng = np.random.default_rng(SEED)
    directions = rng.normal(size=(width, width)) / width**0.5
    scales = 1.0 / (1.0 + np.arange(width) / 10.0)
    return ((rng.normal(size=(n, width)) * scales) @ directions + 2.0).astype(np.float32)


def test_wide_features_become_64_components_of_one_size_and_without_a_mean() -> None:
    found = condensed(image_like())
    assert found.shape == (N, COMPONENTS) and found.dtype == np.float32
    assert np.abs(found.mean(axis=0)).max() < 0.5
    assert (found**2).mean() == pytest.approx(SPREAD**2, rel=0.02)


def test_distances_are_those_of_the_exact_principal_components() -> None:
    features = image_like()
    exact = features.astype(np.float64) - features.mean(axis=0)
    _, values, axes = np.linalg.svd(exact, full_matrices=False)
    best = exact @ axes[:COMPONENTS].T
    found = condensed(features).astype(np.float64)
    found *= np.linalg.norm(best) / np.linalg.norm(found)
    assert found @ found[:5].T == pytest.approx(best @ best[:5].T, abs=0.05 * np.abs(best @ best[:5].T).max())
    share = (values[:COMPONENTS] ** 2).sum() / (values**2).sum()
    assert principal_axes(exact.astype(np.float32))[1] == pytest.approx(share, abs=0.005)


def test_axes_are_orthonormal() -> None:
    features = image_like()
    axes, _ = principal_axes(features - features.mean(axis=0))
    assert axes.T @ axes == pytest.approx(np.eye(COMPONENTS), abs=1e-4)


@pytest.mark.parametrize("kind", ["narrow", "independent", "few", "not finite", "constant"])
def test_features_stay_as_they_are_where_components_would_not_stand_for_them(kind: str) -> None:
    rng = np.random.default_rng(SEED)
    features = {
        "narrow": image_like(width=SHORTEST - 1),
        "independent": rng.normal(size=(N, WIDTH)).astype(np.float32),
        "few": image_like(n=COMPONENTS),
        "not finite": np.where(np.arange(N)[:, None] % 7 == 0, np.float32(np.nan), image_like()),
        "constant": np.full((N, WIDTH), 3.0, dtype=np.float32),
    }[kind]
    assert condensed(features) is features


@pytest.mark.parametrize(("limit", "value"), [("MOST_VALUES", N * WIDTH - 1), ("MOST_INSTANCES", N - 1)])
def test_features_too_many_for_an_assistant_s_start_stay_as_they_are(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, value)
    features = image_like()
    assert condensed(features) is features


def test_whoever_joins_anew_has_its_components_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = image_like()
    found = condensed(features)
    monkeypatch.setattr(module, "principal_axes", lambda _: pytest.fail("computed again"))
    assert condensed(features) is found


def test_sparse_features_are_not_touched() -> None:
    columns = np.arange(N, dtype=np.int32) % WIDTH
    rows = SparseRows(np.ones(N, dtype=np.float32), columns, np.arange(N + 1), WIDTH)
    assert OwnModels(rows, np.arange(N) % 3).features is rows


def test_the_classifier_tells_classes_apart_by_components_as_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean loss on instances that it has not learned from: at most a tenth above that from all columns."""
    rng, features = np.random.default_rng(SEED), image_like()
    labels = (features @ rng.normal(size=(WIDTH, 4))).argmax(axis=1)
    losses = []
    for limit in (module.MOST_VALUES, 0):
        monkeypatch.setattr(module, "MOST_VALUES", limit)
        models = OwnModels(features.copy(), labels)
        for ids in np.array_split(rng.permutation(N // 2), 40):
            models.learn(models.look(ids), np.zeros(len(ids), dtype=np.float32), np.ones(len(ids), dtype=np.float32))
        found = models.look(np.arange(N // 2, N)).losses
        assert found is not None
        losses.append(float(found.mean()))
    assert losses[0] < 1.1 * losses[1] < 1.1 * np.log(4) / 2
