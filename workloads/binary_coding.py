"""Tables of people and of cells as 0/1 features: quintiles of numbers, one-hot for the rest, as LIBSVM's a9a has them.

The binary features of a row need no scaling and are sparse: Adult has 123, of which 13.87 are 1 in the mean row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError
from workloads.sources import Files, SourceFailed

TRAIN_FILE = "adult.data"
TEST_FILE = "adult.test"

_COLUMNS = 15
_QUINTILES = (0, 2, 4, 12)
"""age, fnlwgt, education-num, hours-per-week."""
_POSITIVE = (10, 11)
"""capital-gain and capital-loss: nine of ten are zero, so that there are no quintiles to make."""
_MISSING = "?"


@dataclass(frozen=True)
class BinarySet:
    """Two classes of instances with 0/1 features, in memory, split into training and test."""

    name: str
    """Name of the set that was really served; it goes into the fingerprint."""

    train_features: NDArray[np.uint8]
    """Shape ``(n, d)``, values 0 and 1."""

    train_labels: NDArray[np.int64]
    """Shape ``(n,)``, values 0 and 1."""

    test_features: NDArray[np.uint8]
    """Shape ``(n_test, d)``."""

    test_labels: NDArray[np.int64]
    """Shape ``(n_test,)``."""

    source: str
    """Who served it, for the log and the report."""

    instead_of: str = ""
    """Name of the set that it stands in for; "" where it is what was asked for."""

    @property
    def train_size(self) -> int:
        """Number of training instances."""
        return len(self.train_labels)


def adult_set(files: Files, source: str) -> BinarySet:
    """UCI's two Adult files in a9a coding; quintiles and categories are those of the training part.

    Raises:
        DataError: a line has another number of fields than 15.
    """
    train, test = (_table(files[name], where=name) for name in (TRAIN_FILE, TEST_FILE))
    parts: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    for column in range(_COLUMNS - 1):
        ours, theirs = train[:, column], test[:, column]
        if column in _QUINTILES:
            edges = quintile_edges(ours.astype(np.float64))
            parts.append((in_quintiles(ours.astype(np.float64), edges), in_quintiles(theirs.astype(np.float64), edges)))
        elif column in _POSITIVE:
            parts.append((_is_positive(ours), _is_positive(theirs)))
        else:
            known = sorted(set(ours.tolist()) - {_MISSING})
            parts.append((one_hot(ours, known), one_hot(theirs, known)))
    return BinarySet(
        name="adult",
        train_features=np.hstack([ours for ours, _ in parts]),
        train_labels=_is_rich(train),
        test_features=np.hstack([theirs for _, theirs in parts]),
        test_labels=_is_rich(test),
        source=source,
    )


def breast_cancer_set() -> BinarySet:
    """The 569 tumours that scikit-learn ships, 30 measurements of each in quintiles: 150 features.

    Raises:
        SourceFailed: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise SourceFailed("scikit-learn is not installed (pip install 'autoassist[workloads]')") from error
    data = load_breast_cancer()
    measured, labels = np.asarray(data.data, dtype=np.float64), np.asarray(data.target).astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in (0, 1):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    coded = np.hstack([in_quintiles(column, quintile_edges(column[~is_test])) for column in measured.T])
    return BinarySet(
        *("breast-cancer", coded[~is_test], labels[~is_test], coded[is_test], labels[is_test], "scikit-learn")
    )


def quintile_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The four values between the fifths of ``values``."""
    edges: NDArray[np.float64] = np.quantile(values, [0.2, 0.4, 0.6, 0.8])
    return edges


def in_quintiles(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shape ``(n, 5)``: which fifth each value falls into; one equal to an edge falls below it."""
    return np.eye(len(edges) + 1, dtype=np.uint8)[np.searchsorted(edges, values)]


def one_hot(values: NDArray[np.str_], known: Sequence[str]) -> NDArray[np.uint8]:
    """Shape ``(n, len(known))``: which of the known each value is; a row of zeros for an unknown or missing one."""
    return np.stack([values == category for category in known], axis=1).astype(np.uint8)


def _is_positive(values: NDArray[np.str_]) -> NDArray[np.uint8]:
    positive = values.astype(np.float64) > 0
    return np.stack([~positive, positive], axis=1).astype(np.uint8)


def _is_rich(table: NDArray[np.str_]) -> NDArray[np.int64]:
    # The test part ends its labels with a full stop.
    return np.isin(table[:, -1], (">50K", ">50K.")).astype(np.int64)


def _table(content: bytes, *, where: str) -> NDArray[np.str_]:
    """Fields of each line; blank lines, and the test part's first line, which is a comment, are left out."""
    lines = [line for line in content.decode("ascii", "replace").splitlines() if line.strip() and line[0] != "|"]
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    for row in rows:
        if len(row) != _COLUMNS:
            raise DataError(f"{where}: a line of {len(row)} fields, expected {_COLUMNS}: {','.join(row)[:60]!r}")
    return np.array(rows)
