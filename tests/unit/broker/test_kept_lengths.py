"""The file of the instances' lengths."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from broker.effects import KeepLengths
from broker.kept_lengths import KeptLengths
from protocol.errors import StoreError

VALUES = np.arange(1, 6)


def test_lengths_that_come_in_pieces_are_all_there_in_the_end(tmp_path: Path) -> None:
    kept = KeptLengths(tmp_path)
    assert kept.keep(KeepLengths(start=0, values=VALUES[:3], n=5, is_last=False)) is None
    found = kept.keep(KeepLengths(start=3, values=VALUES[3:], n=5, is_last=True))
    assert found is not None and found.tolist() == VALUES.tolist()


def test_lengths_that_find_no_space_are_an_error_and_no_death_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of holes would be written through the map, where a full disk kills the process."""

    def full(descriptor: int, offset: int, size: int) -> None:
        assert size == os.fstat(descriptor).st_size > 5 * 4
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="No space left"):
        KeptLengths(tmp_path).keep(KeepLengths(start=0, values=VALUES, n=5, is_last=True))
