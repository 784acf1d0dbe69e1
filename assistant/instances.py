"""What an Assistant remembers of each instance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32, I64

LOSS_SMOOTHING = 0.5
"""Weight of the newest loss in an instance's own average; the prototype's table used it."""


class InstanceStore:
    """Per-instance loss history, 16 bytes an instance, 12 at smoothing 1. All arrays have shape ``(n,)``."""

    def __init__(self, n: int, smoothing: float = LOSS_SMOOTHING) -> None:
        self.smoothing = smoothing
        self.mean_loss: F32 = np.zeros(n, dtype=np.float32)
        """Exponential average of the instance's own losses, in their unit; the last one alone at smoothing 1."""
        self.last_loss: F32 = self.mean_loss if smoothing == 1.0 else np.zeros(n, dtype=np.float32)
        """Its last loss."""
        self.last_epoch: NDArray[np.int32] = np.full(n, -1, dtype=np.int32)
        """Epoch of its last loss; -1 for none."""
        self.seen: NDArray[np.int32] = np.zeros(n, dtype=np.int32)
        """How often a loss was reported."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that ``record`` has changed."""
        return {name: values.copy() for name, values in self._arrays().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        for name, values in self._arrays().items():
            if state[name].shape != values.shape:
                raise ValueError(f"{name} of shape {state[name].shape}, not {values.shape}: of another data set")
            values[...] = state[name]

    def _arrays(self) -> dict[str, np.ndarray]:
        last = {} if self.last_loss is self.mean_loss else {"last_loss": self.last_loss}
        return {"mean_loss": self.mean_loss, **last, "last_epoch": self.last_epoch, "seen": self.seen}

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
        if self.last_loss is not self.mean_loss:
            self.last_loss[ids] = losses
        self.last_epoch[ids] = epoch
        self.seen[ids] += 1
