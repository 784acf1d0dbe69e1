"""What an Assistant knows of a sentence pair: hashed TF-IDF of the words of both sides, and their lengths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.sparse import SparseRows
from workloads.cache import file_lock, replacing, undamaged
from workloads.sources import SourceFailed

log = logging.getLogger("autoassist.workloads")

BUCKETS = 1 << 14
"""Of each side; 17 thousand English word forms fit with few collisions that matter, 38 thousand German ones worse."""
VERSION = 1
"""Part of the cached files' names; raise it whenever the same text would give other features."""
PARTS = ("values", "columns", "begins", "width")

_WORD = r"\w+|[^\w\s]"


def kept_features(stem: Path, sides: Callable[[], Sequence[Sequence[str]]]) -> SparseRows | None:
    """Those of files in the cache, mapped into memory, built by whichever process comes first, or finds them damaged.

    ``sides()`` gives the texts of every instance, a sequence for each side. None, with a warning, without scikit-learn.
    """
    paths = {part: stem.with_name(f"{stem.name}-{part}.npy") for part in PARTS}
    with file_lock(stem.with_name(f"{stem.name}.lock")):
        found = undamaged(list(paths.values()), lambda: _checked(_mapped(paths)))
        if found is not None:
            return found
        try:
            rows = features_of(sides())
        except SourceFailed as failure:
            log.warning("the Assistant goes without features: %s", failure)
            return None
        for part, path in paths.items():  # the width last: it says that all are there
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, getattr(rows, part))
        return _mapped(paths)


def _mapped(paths: Mapping[str, Path]) -> SparseRows:
    values, columns, begins = (np.load(paths[part], mmap_mode="r") for part in PARTS[:3])
    return SparseRows(values, columns, begins, int(np.load(paths["width"])))


def _checked(rows: SparseRows) -> SparseRows:
    """The same; ValueError where it cannot be what was written: parts of a file that were lost read as zeros.

    Price: all of the files is read once, which whoever checks that features are finite does too.
    """
    begins, columns, count = rows.begins, rows.columns, len(rows.values)
    lengths = np.diff(begins)
    if begins[0] != 0 or begins[-1] != count or lengths.min() < 0 or len(columns) != count:
        raise ValueError(f"its rows are not those of {count} values")
    ascends = np.ones(count, dtype=np.bool_)  # a byte a value: numbers of eight would be as much as the files
    np.greater(columns[1:], columns[:-1], out=ascends[1:])
    ascends[begins[:-1][lengths > 0]] = True  # whatever the row before has ended with
    if not ascends.all() or columns.min() < 0 or columns.max() >= rows.width:
        raise ValueError(f"its columns are not ascending ones of {rows.width}")
    if not rows.values.all():
        raise ValueError("zeros among values of which none is zero")
    return rows


def features_of(sides: Sequence[Sequence[str]]) -> SparseRows:
    """For each side BUCKETS columns of TF-IDF and one of length; values are of the order of 1, whatever the length.

    SourceFailed without scikit-learn.
    """
    try:
        from scipy.sparse import csr_array, hstack
    except ImportError as error:
        raise SourceFailed("scikit-learn is not installed (pip install 'autoassist[workloads]')") from error
    words: list[Any] = [_tfidf(texts) for texts in sides]
    lengths: list[Any] = [csr_array(_lengths(texts)) for texts in sides]
    rows = hstack([*words, *lengths], format="csr")
    rows.sort_indices()
    return SparseRows(
        rows.data.astype(np.float32), rows.indices.astype(np.int32), rows.indptr.astype(np.int64), rows.shape[1]
    )


def _tfidf(texts: Sequence[str]) -> Any:
    """Rows of norm 1, times the root of their mean number of words."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    hashing = HashingVectorizer(n_features=BUCKETS, token_pattern=_WORD, alternate_sign=False, norm=None)
    counts = hashing.transform(texts)
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts) * max(1.0, counts.nnz / len(texts)) ** 0.5


def _lengths(texts: Sequence[str]) -> NDArray[np.float64]:
    """Log of the number of words, with mean 0 and deviation 1; shape (n, 1)."""
    logs: NDArray[np.float64] = np.log1p([len(text.split()) for text in texts])
    return np.asarray((logs - logs.mean()) / max(float(logs.std()), 1e-6))[:, None]
