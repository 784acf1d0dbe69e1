"""What an Assistant remembers of each instance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32, I64

LOSS_SMOOTHING = 0.5
"""Weight of the newest loss in an instance's own average; the prototype's table used it."""


class InstanceStore:
    """Per-instance loss history, 12 bytes an instance. All arrays have shape ``(n,)``."""

    def __init__(self, n: int, smoothing: float = LOSS_SMOOTHING) -> None:
        self.smoothing = smoothing
        self.mean_loss: F32 = np.zeros(n, dtype=np.float32)
        """Exponential average of the instance's own losses, in the loss's unit; the last one alone at smoothing 1."""
        self.last_epoch: NDArray[np.int32] = np.full(n, -1, dtype=np.int32)
        """Epoch of its last loss; -1 for none."""
        self.seen: NDArray[np.int32] = np.zeros(n, dtype=np.int32)
        """How often a loss was reported."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that ``record`` has changed."""
        return {"mean_loss": self.mean_loss.copy(), "last_epoch": self.last_epoch.copy(), "seen": self.seen.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        for name in ("mean_loss", "last_epoch", "seen"):
            getattr(self, name)[...] = state[name]

    @property
    def n(self) -> int:
        """Number of instances."""
        return len(self.mean_loss)

    def record(self, ids: I64, losses: F32, epoch: int) -> None:
        """Take in finite losses; an ID that occurs twice, where two epochs meet in a step, counts once."""
        first = self.seen[ids] == 0
        before = self.mean_loss[ids]
        smoothed = (1.0 - self.smoothing) * before + self.smoothing * losses
        self.mean_loss[ids] = np.where(first, losses, smoothed)
        self.last_epoch[ids] = epoch
        self.seen[ids] += 1

    def has_recent(self, ids: I64, epoch: int, within_epochs: int) -> NDArray[np.bool_]:
        """Whether each instance has a loss that is at most ``within_epochs`` old."""
        return (self.seen[ids] > 0) & (epoch - self.last_epoch[ids] <= within_epochs)
