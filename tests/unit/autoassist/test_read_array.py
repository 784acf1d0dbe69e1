"""Files of arrays that an Assistant without a workload is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoassist.roles import read_array
from protocol.errors import DataError

FLOAT32 = np.dtype(np.float32)


def test_an_archive_of_arrays_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    np.savez(tmp_path / "features.npz", features=np.zeros((4, 2), np.float32))
    with pytest.raises(DataError, match=r"features\.npz: .*give an \.npy file"):
        read_array(tmp_path / "features.npz", FLOAT32, 2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"1,2\n3,4\n"], ids=["empty", "a torn archive", "CSV"])
def test_a_file_that_is_none_is_refused_with_what_is_wanted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "features.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"features\.npy: .*give an \.npy file"):
        read_array(tmp_path / "features.npy", FLOAT32, 2)
