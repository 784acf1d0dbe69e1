"""What an Assistant knows of a sentence pair."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import WorkloadError
from protocol.sparse import SparseRows
from workloads import CheckedWorkload
from workloads.text.tfidf import BUCKETS, features_of, kept_features
from workloads.translation import Translation

SIDES = (
    ["open the file", "open the folder now please", "close the file", "delete the rarest word: hapax"],
    ["öffne die Datei", "öffne jetzt bitte die Mappe", "schließe die Datei", "lösche das seltenste Wort: Hapax"],
)


def dense(rows: SparseRows) -> np.ndarray:
    identity = np.eye(len(rows), dtype=np.float32)
    return np.stack([row @ rows for row in identity])


def test_rows_are_alike_where_words_are_shared_and_rare_words_weigh_more() -> None:
    found = dense(features_of(SIDES))[:, : 2 * BUCKETS]
    alike = found @ found.T
    assert alike[0, 2] > alike[0, 3] and alike[0, 1] > alike[0, 3]
    source = found[3, :BUCKETS]
    assert source.max() > source[source > 0].min()


def test_both_sides_have_columns_of_their_own_and_one_for_their_length() -> None:
    rows = features_of(SIDES)
    found = dense(rows)
    assert rows.shape == (4, 2 * (BUCKETS + 1))
    assert found[:, -2:].mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert (np.argsort(found[:, -2])[[0, -1]] == np.argsort([len(t.split()) for t in SIDES[0]])[[0, -1]]).all()
    assert (found[:, :BUCKETS] > 0).sum() == sum(len(set(t.replace(":", " :").split())) for t in SIDES[0])


def test_values_are_of_the_order_of_one() -> None:
    rows = features_of(SIDES)
    values = rows.values[rows.columns < 2 * BUCKETS]
    assert 0.3 < float(np.sqrt((values**2).mean())) < 2.0


def test_they_are_built_once_and_mapped_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept_features(tmp_path / "x", lambda: SIDES)
    monkeypatch.setattr("workloads.text.tfidf.features_of", None)
    again = kept_features(tmp_path / "x", lambda: SIDES)
    assert first is not None and again is not None and isinstance(again.values, np.memmap)
    assert np.array_equal(dense(first), dense(again))


def test_without_scikit_learn_the_assistant_goes_on_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        assert kept_features(tmp_path / "x", lambda: SIDES) is None
    assert "the Assistant goes without features: scikit-learn is not installed" in caplog.text


def test_a_sparse_matrix_that_breaks_the_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    n = CheckedWorkload(Translation(data=Path(__file__).parents[4] / "workloads/text/small_pairs.tsv"))
    good = SparseRows(np.ones(2, np.float32), np.zeros(2, np.int32), np.array([0, 0, *[2] * 1380]), 3)
    for broken, said in (
        (SparseRows(good.values, good.columns, good.begins[:-1], 3), r"float32 of shape \(1380, 3\)"),
        (SparseRows(np.array([1, np.nan], np.float32), good.columns, good.begins, 3), r"NaN or infinity in row 1"),
    ):
        monkeypatch.setattr(Translation, "features", lambda self, broken=broken: broken)
        with pytest.raises(WorkloadError, match=said):
            n.features()
    monkeypatch.setattr(Translation, "features", lambda self: good)
    assert n.features() is good


NO_TORCH = """
import sys
from pathlib import Path
from workloads import load_workload
for name, data in (("translation", sys.argv[1]), ("lm", sys.argv[2])):
    workload = load_workload(name, data=Path(data))
    assert workload.fingerprint().n > 0 and workload.features() is not None and workload.preview(0)
sys.exit("torch" in sys.modules)
"""


def test_an_assistant_of_text_works_without_torch() -> None:
    root = Path(__file__).parents[4]
    words = [sys.executable, "-c", NO_TORCH, str(root / "workloads/text/small_pairs.tsv"), str(root / "README.md")]
    ended = subprocess.run(words, cwd=root, timeout=120, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
