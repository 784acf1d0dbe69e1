"""Self-normalised 1/π-weighted estimates over the reported instances.

An Assistant sees only the losses of what passed. Weighing each by 1/π makes the stream speak for all instances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import F32

State = dict[str, np.ndarray]
"""What a checkpoint holds of an estimator or a policy: plain arrays by name."""

MEAN_DECAY = 0.97
LIFT_DECAY = 0.98
SAMPLE = 4096
REFRESH_EVERY = 16
FEWEST = 16
"""Effective instances that each side of a lift needs before it says anything."""
MATERIAL = 0.05
"""Share of the mean loss below which a lift, however certain, is not worth shrinking for: a model that has learned its
own training instances by heart reaches it with features that mean nothing."""


class Stateful(Protocol):
    """What can be kept in a checkpoint."""

    def state_dict(self) -> State:
        """Everything that has changed since it was made."""

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``; raises KeyError or ValueError for the state of something else."""


def gather(parts: Mapping[str, Stateful]) -> State:
    """The state of several parts, each under ``part.name``."""
    return {f"{part}.{name}": v for part, holder in parts.items() for name, v in holder.state_dict().items()}


def scatter(parts: Mapping[str, Stateful], state: State) -> None:
    """The inverse of ``gather``."""
    for part, holder in parts.items():
        prefix = part + "."
        holder.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


class RunningMean:
    """Exponentially forgetting mean of the unbiased stream; ``decay`` per report."""

    def __init__(self, decay: float = MEAN_DECAY) -> None:
        self.decay = decay
        self._weighted = 0.0
        self._weight = 0.0

    def state_dict(self) -> State:
        """Everything that ``add`` has changed."""
        return {"sums": np.array([self._weighted, self._weight])}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._weighted, self._weight = (float(v) for v in state["sums"])

    def add(self, losses: F32, weights: F32) -> None:
        """Take in a report; both of shape ``(k,)``, weights 1/π."""
        # In float32 the sum of two large losses would be infinite, and so would be every later mean.
        exact = weights.astype(np.float64)
        self._weighted = self.decay * self._weighted + float(losses.astype(np.float64) @ exact)
        self._weight = self.decay * self._weight + float(exact.sum())

    @property
    def value(self) -> float:
        """The mean; NaN before the first report."""
        return self._weighted / self._weight if self._weight else math.nan


class RecentLosses:
    """The last ``size`` losses of the stream with their weights 1/π: an empirical distribution of all instances'."""

    def __init__(self, size: int = SAMPLE) -> None:
        self.size = size
        self._losses = np.zeros(size, dtype=np.float32)
        self._weights = np.zeros(size, dtype=np.float32)
        self._next = 0
        self._filled = 0
        self._sorted: tuple[F32, NDArray[np.float64]] | None = None

    def state_dict(self) -> State:
        """Everything that ``add`` has changed."""
        return {"counts": np.array([self._next, self._filled]), "sample": np.stack([self._losses, self._weights])}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._next, self._filled = (int(v) for v in state["counts"])
        self._losses[...], self._weights[...] = state["sample"]
        self._sorted = None

    def add(self, losses: F32, weights: F32) -> None:
        """Take in a report; both of shape ``(k,)``, weights 1/π."""
        places = (self._next + np.arange(len(losses))) % self.size
        self._losses[places], self._weights[places] = losses, weights
        self._next = (self._next + len(losses)) % self.size
        self._filled = min(self.size, self._filled + len(losses))
        self._sorted = None

    def quantile(self, share: float) -> float:
        """The loss below which ``share`` of the weight lies; NaN while there is none."""
        losses, below = self._in_order()
        return float(losses[np.searchsorted(below, share * below[-1])]) if len(losses) else math.nan

    def share_up_to(self, values: F32) -> F32:
        """CDF: the share of the weight at or below each value, shape ``(k,)``; 1 while there is none."""
        losses, below = self._in_order()
        if not len(losses):
            return np.ones(len(values), dtype=np.float32)
        found: F32 = (np.append(0.0, below)[np.searchsorted(losses, values, side="right")] / below[-1]).astype("f4")
        return found

    def _in_order(self) -> tuple[F32, NDArray[np.float64]]:
        if self._sorted is None:
            losses, weights = self._losses[: self._filled], self._weights[: self._filled]
            order = np.argsort(losses)
            self._sorted = losses[order], np.cumsum(weights[order], dtype=np.float64)
        return self._sorted


class RunningQuantile:
    """Weighted quantile of the last ``SAMPLE`` reported losses, refreshed every ``REFRESH_EVERY`` reports."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.value = math.nan
        self._recent = RecentLosses()
        self._reports = 0

    def state_dict(self) -> State:
        """Everything that ``add`` has changed."""
        return {**self._recent.state_dict(), "value": np.array([self.value]), "reports": np.array([self._reports])}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._recent.load_state_dict(state)
        self.value, self._reports = float(state["value"][0]), int(state["reports"][0])

    def add(self, losses: F32, weights: F32) -> None:
        """Take in a report; both of shape ``(k,)``, weights 1/π."""
        self._recent.add(losses, weights)
        if self._reports % REFRESH_EVERY == 0:
            self.value = self._recent.quantile(self.share)
        self._reports += 1


class Lift:
    """How much more loss the instances have that a rule would keep, than those that it would shrink.

    Each instance counts π on the one side and 1 - π on the other. Losses are taken relative to the mean of their own
    report, so that losses that fall with time are no lift. Zero in expectation where the keep probabilities have
    nothing to do with the losses, whatever their distribution. The error is the standard error of the difference of the
    two weighted means, linearised, so that a π which hardly varies is judged as sharply as one of 0 or 1.
    """

    def __init__(self, decay: float = LIFT_DECAY) -> None:
        self.decay = decay
        # Σw and Σw·loss of the kept side, of the shrunk side; then Σ1/π and Σ|loss|/π
        self._sums = np.zeros(6)
        # rows: both weights kept, one of each side, both shrunk; columns: Σw·w', Σw·w'·loss, Σw·w'·loss²
        self._squares = np.zeros((3, 3))
        self._found: tuple[float, float] | None = None  # asked for with every window, changed with every report

    def state_dict(self) -> State:
        """Everything that ``add`` has changed."""
        return {"sums": self._sums.copy(), "squares": self._squares.copy()}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._sums[...], self._squares[...] = state["sums"], state["squares"]
        self._found = None

    def add(self, keep_probabilities: F32, losses: F32, weights: F32) -> None:
        """Take in a report judged before it was learned from; all of shape ``(k,)``."""
        if not len(losses):
            return
        self._found = None
        w, loss = weights.astype(np.float64), losses.astype(np.float64)
        total, absolute = w.sum(), w @ np.abs(loss)
        loss -= (w @ loss) / total
        sides, powers = np.empty((5, len(w))), np.empty((3, len(w)))
        kept, shrunk = np.multiply(w, keep_probabilities, out=sides[0]), sides[1]
        np.subtract(w, kept, out=shrunk)
        np.multiply(sides[:2], kept, out=sides[2:4])
        np.multiply(shrunk, shrunk, out=sides[4])
        powers[0], powers[1] = 1.0, loss
        np.multiply(loss, loss, out=powers[2])
        found = sides @ powers.T
        self._sums *= self.decay
        self._sums += (*found[:2, :2].ravel(), total, absolute)
        self._squares *= self.decay**2
        self._squares += found[2:]

    @property
    def value_and_error(self) -> tuple[float, float]:
        """Lift and its standard error, in the loss's unit; (0, inf) while a side is empty."""
        if self._found is None:
            self._found = self._value_and_error()
        return self._found

    def _value_and_error(self) -> tuple[float, float]:
        k, k_loss, s, s_loss = self._sums[:4].tolist()
        (kk, kk1, kk2), (ks, ks1, ks2), (ss, ss1, ss2) = self._squares.tolist()
        if k <= 0.0 or s <= 0.0 or k * k < FEWEST * kk or s * s < FEWEST * ss:
            return 0.0, math.inf
        a, b = k_loss / k, s_loss / s
        variance = (kk2 - 2 * a * kk1 + a * a * kk) / k**2 + (ss2 - 2 * b * ss1 + b * b * ss) / s**2
        variance -= 2 * (ks2 - (a + b) * ks1 + a * b * ks) / (k * s)
        return a - b, math.sqrt(max(0.0, variance))

    def is_clearly_positive(self, errors: float) -> bool:
        """Whether the lift is more than ``errors`` standard errors above zero, and large enough to matter."""
        value, error = self.value_and_error
        return value > errors * error and value > MATERIAL * self._sums[5] / max(self._sums[4], 1e-300)
