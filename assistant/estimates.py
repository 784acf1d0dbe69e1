"""Self-normalised 1/π-weighted estimates over the reported instances.

An Assistant sees only the losses of what passed. Weighing each by 1/π makes the stream speak for all instances.
"""

from __future__ import annotations

import math

import numpy as np

from protocol.arrays import F32

State = dict[str, np.ndarray]
"""What a checkpoint holds of an estimator or a policy: plain arrays by name."""

MEAN_DECAY = 0.97
LIFT_DECAY = 0.98
SAMPLE = 4096
REFRESH_EVERY = 16


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
        self._weighted = self.decay * self._weighted + float(losses @ weights)
        self._weight = self.decay * self._weight + float(weights.sum())

    @property
    def value(self) -> float:
        """The mean; NaN before the first report."""
        return self._weighted / self._weight if self._weight else math.nan


class RunningQuantile:
    """Weighted quantile of the last ``SAMPLE`` reported losses, refreshed every ``REFRESH_EVERY`` reports."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.value = math.nan
        self._losses = np.zeros(SAMPLE, dtype=np.float32)
        self._weights = np.zeros(SAMPLE, dtype=np.float32)
        self._next = 0
        self._filled = 0
        self._reports = 0

    def state_dict(self) -> State:
        """Everything that ``add`` has changed."""
        counts = np.array([self._next, self._filled, self._reports])
        sample = np.stack([self._losses, self._weights])
        return {"value": np.array([self.value]), "counts": counts, "sample": sample}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self.value = float(state["value"][0])
        self._next, self._filled, self._reports = (int(v) for v in state["counts"])
        self._losses[...], self._weights[...] = state["sample"]

    def add(self, losses: F32, weights: F32) -> None:
        """Take in a report; both of shape ``(k,)``, weights 1/π."""
        places = (self._next + np.arange(len(losses))) % SAMPLE
        self._losses[places], self._weights[places] = losses, weights
        self._next = (self._next + len(losses)) % SAMPLE
        self._filled = min(SAMPLE, self._filled + len(losses))
        if self._reports % REFRESH_EVERY == 0:
            self._refresh()
        self._reports += 1

    def _refresh(self) -> None:
        losses, weights = self._losses[: self._filled], self._weights[: self._filled]
        order = np.argsort(losses)
        below = np.cumsum(weights[order], dtype=np.float64)
        if len(below):
            self.value = float(losses[order][np.searchsorted(below, self.share * below[-1])])


class Lift:
    """How much more loss the instances have that a rule would keep, than those that it would shrink.

    Positive where the rule knows something; zero in expectation where its keep probabilities have nothing to do with
    the losses, whatever their distribution. The error is the standard error of the difference of the two weighted
    means, with effective sample sizes.
    """

    def __init__(self, decay: float = LIFT_DECAY) -> None:
        self._decays = np.array([decay, decay * decay, decay, decay])
        # rows: kept side, shrunk side; columns: Σw, Σw², Σw·loss, Σw·loss², each w with its decay
        self._sums = np.zeros((2, 4))

    def state_dict(self) -> State:
        """Everything that ``add`` has changed."""
        return {"sums": self._sums.copy()}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._sums[...] = state["sums"]

    def add(self, keep_probabilities: F32, losses: F32, weights: F32) -> None:
        """Take in a report judged before it was learned from; all of shape ``(k,)``."""
        if not len(losses):
            return
        self._sums *= self._decays
        for side, share in enumerate((keep_probabilities, 1.0 - keep_probabilities)):
            w = (weights * share).astype(np.float64)
            self._sums[side] += (w.sum(), (w * w).sum(), w @ losses, w @ (losses.astype(np.float64) ** 2))

    @property
    def value_and_error(self) -> tuple[float, float]:
        """Lift and its standard error, in the loss's unit; (0, inf) while a side is empty."""
        (kw, kw2, kl, kl2), (sw, sw2, sl, sl2) = self._sums
        if kw <= 0.0 or sw <= 0.0 or kw * kw < 16 * kw2 or sw * sw < 16 * sw2:
            return 0.0, math.inf
        kept, shrunk = kl / kw, sl / sw
        variance = max(0.0, kl2 / kw - kept**2) * kw2 / kw**2 + max(0.0, sl2 / sw - shrunk**2) * sw2 / sw**2
        return float(kept - shrunk), math.sqrt(variance)

    def is_clearly_positive(self, errors: float) -> bool:
        """Whether the lift is more than ``errors`` standard errors above zero."""
        value, error = self.value_and_error
        return value > 0.0 and value > errors * error
