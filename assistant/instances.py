"""What an Assistant remembers of each instance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assistant.tables import Tables
from protocol.arrays import F32, I64

LOSS_SMOOTHING = 0.5
"""Weight of the newest loss in an instance's own average; the prototype's table used it."""


class Remembered(NamedTuple):
    """Of some instances; all of shape ``(k,)``."""

    mean_loss: F32
    """Exponential average of its own losses, in their unit; the last one alone at smoothing 1; 0 for none."""
    last_loss: F32
    """Its last loss; 0 for none."""
    last_epoch: NDArray[np.int32]
    """Epoch of its last loss; -1 for none."""

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """Whether a loss was ever reported."""
        return self.last_epoch >= 0

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """Whether none was."""
        return self.last_epoch < 0


class InstanceStore:
    """Per-instance loss history, 12 bytes an instance, 8 at smoothing 1.

    All that is known of one lies together, so that it costs one miss of the cache however many instances there are.
    """

    def __init__(self, n: int, smoothing: float = LOSS_SMOOTHING, tables: Tables | None = None) -> None:
        self.smoothing = smoothing
        # Mean, last loss (not at smoothing 1), and the bits of the whole number 1 + epoch of the last loss: zeros know
        # nothing, and rows that were never written cost no memory.
        columns = 2 if smoothing == 1.0 else 3
        self._table = (Tables() if tables is None else tables).make("instances", n, columns, np.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that ``record`` has changed; see ``Table.state``."""
        return self._table.state()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        self._table.load(state)

    @property
    def n(self) -> int:
        """Number of instances."""
        return len(self._table.rows)

    @property
    def rows(self) -> F32:
        """All that is remembered, shape ``(n, 3)``, ``(n, 2)`` at smoothing 1."""
        rows: F32 = self._table.rows
        return rows

    def look_up(self, ids: I64) -> Remembered:
        """What is known of these."""
        rows = self._table.rows.take(ids, axis=0)
        return Remembered(rows[:, 0], rows[:, -2], rows.view(np.int32)[:, -1] - np.int32(1))

    def record(self, ids: I64, losses: F32, epoch: int) -> None:
        """Take in finite losses; an ID that occurs twice, where two epochs meet in a step, counts once."""
        rows = self._table.rows.take(ids, axis=0)
        epochs = rows.view(np.int32)[:, -1]
        smoothed = (1.0 - self.smoothing) * rows[:, 0] + self.smoothing * losses
        rows[:, 0] = np.where(epochs == 0, losses, smoothed)
        if self.smoothing != 1.0:
            rows[:, 1] = losses
        epochs[...] = epoch + 1
        self._table.put(ids, rows)
