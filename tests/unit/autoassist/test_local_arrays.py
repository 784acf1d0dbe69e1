"""What a script gives its Assistants is made to fit, or refused before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autoassist
from autoassist.local_arrays import as_features, as_labels
from protocol.errors import SettingError

N = 4
BAD_FEATURES: dict[str, Any] = {
    "another number of rows": np.zeros((3, 2)),
    "one dimension": np.zeros(N),
    "NaN": np.full((N, 2), np.nan),
    "too large for float32": np.full((N, 2), 1e300),
    "words": np.full((N, 2), "x"),
    "rows of different lengths": [[1], [1, 2], [1], [1]],
    "a tensor with gradients": torch.ones(N, 2, requires_grad=True),
}
BAD_LABELS = {
    "one that is none": np.array([0, 1, -1, 2]),
    "identities": np.array([0, 1, 10**9, 2]),
    "halves": np.array([0.5, 1.0, 1.0, 2.0]),
    "another number": np.arange(3),
    "two dimensions": np.zeros((N, 1), np.int64),
}


def test_numbers_of_any_kind_become_what_an_assistant_reads() -> None:
    for given in (np.ones((N, 2)), [[1, 1]] * N, torch.ones(N, 2), np.ones((N, 2), bool)):
        features = as_features(given, N)
        assert features is not None and features.dtype == np.float32 and features.tolist() == [[1.0, 1.0]] * N
    for classes in (np.arange(N, dtype=np.int32), list(range(N)), torch.arange(N)):
        labels = as_labels(classes, N)
        assert labels is not None and labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 3]
    assert as_features(None, N) is None and as_labels(None, N) is None


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", BAD_FEATURES)
def test_features_that_no_assistant_could_read_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="features="):
        as_features(BAD_FEATURES[name], N)


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_are_no_classes_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="labels="):
        as_labels(BAD_LABELS[name], N)


def test_a_local_feed_refuses_them_before_it_starts_anything(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"features": BAD_FEATURES["NaN"]}, {"labels": BAD_LABELS["one that is none"]}]
    for arrays in wrong:
        with pytest.raises(SettingError):
            autoassist.Feed.local(range(N), run_dir=tmp_path / "run", batch_size=2, **arrays)
    assert not (tmp_path / "run").exists()
