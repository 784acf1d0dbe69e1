"""Features that are not finite are refused wherever they stand: one NaN makes every weight of a learned model NaN."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from autoassist.roles import read_array
from protocol import finite
from protocol.errors import DataError, WorkloadError
from protocol.finite import rows_not_finite
from tests.unit.workloads.test_workloads_validate import Tiny
from workloads import CheckedWorkload, validate_workload

FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 5])
def test_features_of_a_workload_that_are_not_finite_name_how_many_rows_and_the_first(value: float, row: int) -> None:
    tiny, features = Tiny(), np.zeros((6, 4), np.float32)
    features[row, 2] = features[5, 0] = value
    tiny.features = lambda: features  # type: ignore[method-assign]
    count = len({row, 5})
    complaint = rf"Tiny\.features\(\) returned NaN or infinity in {count} of 6 rows, the first of instance {row}; "
    for check in (lambda: CheckedWorkload(tiny).features(), lambda: validate_workload(tiny)):
        with pytest.raises(WorkloadError, match=f"^workload tiny: {complaint}expected finite numbers"):
            check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_features_file_that_is_not_finite_names_how_many_rows_and_the_first(tmp_path: Path, value: float) -> None:
    features = np.zeros((50, 3), np.float32)
    features[[17, 17, 40], [0, 2, 1]] = value
    np.save(tmp_path / "features.npy", features)
    complaint = r"features\.npy: 2 of 50 rows hold NaN or infinity, the first of instance 17; fill them in"
    with pytest.raises(DataError, match=complaint):
        read_array(tmp_path / "features.npy", FLOAT32, 2)


def test_finite_files_and_labels_pass(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.full((5, 3), np.finfo(np.float32).max))
    np.save(tmp_path / "labels.npy", np.arange(5))
    assert read_array(tmp_path / "features.npy", FLOAT32, 2).shape == (5, 3)
    assert read_array(tmp_path / "labels.npy", np.dtype(np.int64), 1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("chunk", [1, 6, 7, 1 << 20])
@pytest.mark.parametrize("bad", [[], [0], [9], [3, 4, 8]])
def test_every_row_counts_whatever_chunk_it_falls_into(
    chunk: int, bad: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "CHUNK_VALUES", chunk)
    array = np.zeros((10, 3), np.float32)
    array[bad, 1] = np.nan
    assert rows_not_finite(array) == (len(bad), bad[0] if bad else -1)


def test_a_large_file_is_looked_through_in_flat_memory(tmp_path: Path) -> None:
    """64 MB of features cost a few MB while they are looked through."""
    path = tmp_path / "large.npy"
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1 << 14, 1 << 10))
    mapped[-1, -1] = np.nan
    del mapped
    array = np.load(path, mmap_mode="r")
    tracemalloc.start()
    try:
        assert rows_not_finite(array) == (1, (1 << 14) - 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
