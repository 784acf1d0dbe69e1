"""The file in which a run keeps the lengths of its instances: an .npy of whole numbers, mapped into memory.

Written as they come, before the row that says how many there are is committed; so what the row counts is in the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from broker.effects import KeepLengths
from broker.rows import RunRow
from broker.store_errors import unwritable
from protocol.errors import StoreError
from protocol.token_batches import I32

LENGTHS_FILE = "lengths.npy"


class KeptLengths:
    """Of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.path = run_dir / LENGTHS_FILE

    def keep(self, effect: KeepLengths) -> I32 | None:
        """Write a piece; all lengths once the last one is there. Raises StoreError on a full disk."""
        try:
            mode = "r+" if effect.start else "w+"
            lengths = open_memmap(
                self.path, mode=mode, dtype=np.dtype("<i4"), shape=(effect.n,) if mode == "w+" else None
            )
            if mode == "w+":  # through a map a full disk would kill this process, without a word
                with self.path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self.path.stat().st_size)
            lengths[effect.start : effect.start + len(effect.values)] = effect.values
            lengths.flush()
        except (OSError, ValueError) as error:
            raise unwritable(self.run_dir, error) from error
        return np.load(self.path, mmap_mode="r", allow_pickle=False) if effect.is_last else None

    def load(self, run: RunRow | None) -> I32 | None:
        """All lengths of a run that has them; None where it has none, or they have not all come.

        Raises StoreError where the file is not what the run has kept.
        """
        if run is None or not run.lengths_id or run.lengths_kept < run.n:
            return None
        try:
            lengths: I32 = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None
        if lengths.dtype != np.dtype("<i4") or lengths.shape != (run.n,):
            raise self._damaged(f"{lengths.dtype} of shape {lengths.shape}, and the run has {run.n} instances")
        return lengths

    def _damaged(self, problem: str) -> StoreError:
        return StoreError(f"{self.path}: {problem}; restore the file or choose another --run-dir")
