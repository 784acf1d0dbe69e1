"""The Assistant's own models: logistic, on features, label and loss history (paper section 4.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assistant.scales import column_scales, rows_of
from protocol.arrays import F32, I64
from protocol.sparse import Features, values_a_row

LEARNING_RATE = 0.3
"""Step of a single coordinate; features share one such step among all of theirs, hence the root of their number."""
HISTORY_FEATURES = 3
PAPER_LEARNING_RATE = 0.01
PAPER_WEIGHT_DECAY = 1e-3


def sigmoid(logits: F32) -> F32:
    """Stable for any finite input."""
    probabilities: F32 = np.float32(0.5) * logits
    np.tanh(probabilities, out=probabilities)
    probabilities += np.float32(1.0)
    probabilities *= np.float32(0.5)
    return probabilities


class LogisticModel:
    """q_i = σ(w·x_i + u[y_i] + v·h_i), trained by SGD with per-coordinate steps (AdaGrad).

    ``x`` has shape (n, d) float32, dense or sparse, or is None, ``y`` (n,) int64 or None, ``h`` (k, ``history_width``)
    float32: what is known of an instance beside them, its loss history first.
    """

    def __init__(
        self,
        features: Features | None,
        labels: NDArray[np.int64] | None,
        history_width: int = HISTORY_FEATURES,
    ) -> None:
        self.features = features
        self.labels = labels
        width = features.shape[1] if features is not None else 0
        a_row = values_a_row(features) if features is not None else 0
        classes = int(labels.max()) + 1 if labels is not None and len(labels) else 1
        self.w: F32 = np.zeros(width, dtype=np.float32)
        self.u: F32 = np.zeros(classes, dtype=np.float32)
        self.v: F32 = np.zeros(history_width, dtype=np.float32)
        self._rates = {"w": LEARNING_RATE / max(1.0, a_row**0.5), "u": LEARNING_RATE, "v": LEARNING_RATE}
        self._squares = {name: np.full_like(getattr(self, name), 1e-3) for name in ("w", "u", "v")}
        self.updates = 0

    def state_dict(self) -> dict[str, np.ndarray]:
        """Weights, step sizes and the number of updates."""
        state = {name: getattr(self, name).copy() for name in ("w", "u", "v")}
        state.update({f"squares_{name}": values.copy() for name, values in self._squares.items()})
        return {**state, "updates": np.array([self.updates])}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        for name in ("w", "u", "v"):
            getattr(self, name)[...] = state[name]
            self._squares[name][...] = state[f"squares_{name}"]
        self.updates = int(state["updates"][0])

    def logits(self, ids: I64, history: F32, products: F32 | None = None) -> F32:
        """Shape ``(k,)``; ``products`` are w·x where they are there already."""
        found = self.u.take(self.labels.take(ids)) if self.labels is not None else np.full(len(ids), self.u[0])
        if len(self.v):
            found += history @ self.v
        if self.features is not None:
            found += self.features[ids] @ self.w if products is None else products
        return found

    def predict(self, ids: I64, history: F32, products: F32 | None = None) -> F32:
        """Probability that each instance's loss is above the threshold, shape ``(k,)``; see ``logits``."""
        return sigmoid(self.logits(ids, history, products))

    def learn(
        self,
        ids: I64,
        history: F32,
        targets: F32,
        weights: F32,
        *,
        rows: Features | None = None,
        products: F32 | None = None,
    ) -> None:
        """One SGD step on a report; ``weights`` are 1/π and are normalised here. ``rows`` are the instances' features,
        and ``products`` w·x, where they are there already."""
        x = self.features[ids] if rows is None and self.features is not None else rows
        y = self.labels.take(ids) if self.labels is not None else np.zeros(len(ids), dtype=np.int64)
        if products is None and x is not None:
            products = x @ self.w
        residual = (self.predict(ids, history, products) - targets) * (weights / weights.sum())
        if x is not None:
            self._step("w", residual @ x)
        self._step("u", np.bincount(y, weights=residual, minlength=len(self.u)).astype(np.float32))
        self._step("v", residual @ history)
        self.updates += 1

    def _step(self, name: str, gradient: F32) -> None:
        squares = self._squares[name]
        squares += gradient * gradient
        getattr(self, name)[...] -= self._rates[name] * gradient / np.sqrt(squares)


class PaperModel:
    """q_i = σ(w·x_i + u[y_i]) exactly as in the paper's section 4.1 and its authors' code for images.

    Plain SGD on the mean of each report at rate 0.01 with weight decay 0.001; unweighted. It begins at 0, theirs at
    random numbers of deviation 0.001. ``x`` has shape (n, d) float32 or is None, ``y`` (n,) int64 or None.
    """

    def __init__(self, features: Features | None, labels: NDArray[np.int64] | None) -> None:
        self.features = features
        self.labels = labels
        self._scales = column_scales(features) if features is not None else None
        classes = int(labels.max()) + 1 if labels is not None and len(labels) else 1
        self.w: F32 = np.zeros(features.shape[1] if features is not None else 0, dtype=np.float32)
        self.u: F32 = np.zeros(classes, dtype=np.float32)
        self.updates = 0

    def state_dict(self) -> dict[str, np.ndarray]:
        """Weights and the number of updates."""
        return {"w": self.w.copy(), "u": self.u.copy(), "updates": np.array([self.updates])}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        self.w[...], self.u[...], self.updates = state["w"], state["u"], int(state["updates"][0])

    def predict(self, ids: I64) -> F32:
        """Probability that each instance is not trivial, shape ``(k,)``."""
        logits = self.u[self.labels[ids]] if self.labels is not None else np.full(len(ids), self.u[0])
        if self.features is not None:
            logits = logits + rows_of(self.features, ids, self._scales) @ self.w
        return sigmoid(logits.astype(np.float32))

    def learn(self, ids: I64, targets: F32) -> float:
        """One SGD step; returns the accuracy on the report, before the step."""
        found = self.predict(ids)
        residual = (found - targets) / len(ids)
        y = self.labels[ids] if self.labels is not None else np.zeros(len(ids), dtype=np.int64)
        present = np.bincount(y, minlength=len(self.u))
        gradient = np.bincount(y, weights=residual, minlength=len(self.u))
        decay = PAPER_WEIGHT_DECAY / len(ids)
        self.u -= (PAPER_LEARNING_RATE * (gradient + decay * present * self.u)).astype(np.float32)
        if self.features is not None:
            self.w -= PAPER_LEARNING_RATE * (residual @ rows_of(self.features, ids, self._scales) + decay * self.w)
        self.updates += 1
        return float(((found > 0.5) == (targets > 0.5)).mean())
