"""The Assistant's own classifier: what is hard for it is mostly hard for the Boss too, before the Boss has seen it.

Ours, not the paper's. A logistic model of pixels and label, as the paper has it, cannot tell that an image looks like
another class than its own; a classifier's loss does. Measured in docs/RESULTS.md, "Data seen once".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import State
from protocol.arrays import F32, I64
from protocol.sparse import Features, SparseRows

LEARNING_RATE = 0.3
"""AdaGrad's step of the biases; the weights of one class share one such step, hence the root of their number."""
MOST_WEIGHTS = 1 << 22
"""Classes times features, 32 MB with the step sizes; a larger classifier is not made."""
MOST_LOSS = np.float32(16.0)
MOST_LOG_ODDS = np.float32(60.0)
"""So that their sum over classes stays finite."""
LOSS_FEATURES = 2


class OwnClassifier:
    """Softmax regression of the labels on the features, trained on what the Boss reports, weighed by 1/π.

    ``features`` has shape (n, d) float32, ``labels`` (n,) int64. For ten classes and 784 features scoring costs a
    third of a microsecond an instance beside the fetching of its row, learning two thirds.
    """

    def __init__(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self.features = features
        self.labels = labels
        classes, width = int(labels.max()) + 1, features.shape[1]
        self.weights: F32 = np.zeros((classes, width), dtype=np.float32).T  # as a step's gradient lies
        self.biases: F32 = np.zeros(classes, dtype=np.float32)
        self._rate = np.float32(LEARNING_RATE / max(1.0, width**0.5))
        self._weight_squares = np.full_like(self.weights, 1e-3)
        self._bias_squares = np.full_like(self.biases, 1e-3)

    @classmethod
    def where_possible(cls, features: Features | None, labels: NDArray[np.int64] | None) -> OwnClassifier | None:
        """None where there is nothing to classify, too much of it, or features that are sparse."""
        if features is None or isinstance(features, SparseRows):
            return None
        if labels is None or len(labels) == 0 or labels.max() < 1:
            return None
        return cls(features, labels) if (int(labels.max()) + 1) * features.shape[1] <= MOST_WEIGHTS else None

    def state_dict(self) -> State:
        """Weights and step sizes."""
        return {
            "weights": self.weights.copy(),
            "biases": self.biases.copy(),
            "weight_squares": self._weight_squares.copy(),
            "bias_squares": self._bias_squares.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self.weights[...], self.biases[...] = state["weights"], state["biases"]
        self._weight_squares[...], self._bias_squares[...] = state["weight_squares"], state["bias_squares"]

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.biases)

    def losses(self, ids: I64) -> F32:
        """Its cross entropy on each instance, nats, at most 16; shape ``(k,)``."""
        return losses_of(self.odds((self.features.take(ids, axis=0) @ self.weights).T, ids))

    def odds(self, products: F32, ids: I64) -> F32:
        """How much more likely each class is than the instance's own: p_j / p_y from ``weights.T @ x``, in its place;
        shape ``(classes, k)``."""
        products += self.biases[:, None]
        own = self.labels.take(ids)
        own *= len(ids)
        own += np.arange(len(ids))
        products -= products.ravel().take(own)
        np.minimum(products, MOST_LOG_ODDS, out=products)
        odds: F32 = np.exp(products, out=products)
        return odds

    def loss_features(self, ids: I64) -> F32:
        """``columns_of`` its losses."""
        return columns_of(self.losses(ids))

    def learn(self, ids: I64, weights: F32) -> None:
        """One SGD step on a report; ``weights`` are 1/π and are normalised here."""
        x = self.features.take(ids, axis=0)
        self.learn_from(x, self.odds((x @ self.weights).T, ids), ids, weights)

    def learn_from(self, x: F32, odds: F32, ids: I64, weights: F32) -> None:
        """The same with the rows of the features and the odds, where they are there already."""
        residuals = odds / odds.sum(axis=0)
        residuals[self.labels.take(ids), np.arange(len(ids))] -= 1.0
        residuals *= (weights / weights.sum()).astype(np.float32)
        _step(self.weights, self._weight_squares, (residuals @ x).T, self._rate)
        _step(self.biases, self._bias_squares, residuals.sum(axis=1), np.float32(LEARNING_RATE))


def losses_of(odds: F32) -> F32:
    """Cross entropies from odds of shape ``(classes, k)``, nats, at most 16; shape ``(k,)``."""
    sums = np.add.reduce(odds, axis=0)
    losses: F32 = np.log(sums, out=sums)
    return np.minimum(losses, MOST_LOSS, out=losses)


def columns_of(losses: F32) -> F32:
    """What the learned model takes of a loss: log(1 + loss), and the probability missed; shape ``(k, 2)``."""
    columns = np.empty((LOSS_FEATURES, len(losses)), dtype=np.float32)
    np.log1p(losses, out=columns[0])
    np.expm1(-losses, out=columns[1])
    np.negative(columns[1], out=columns[1])
    return columns.T


def _step(values: F32, squares: F32, gradient: F32, rate: np.float32) -> None:
    """AdaGrad, in place."""
    squares += gradient * gradient
    values -= rate * gradient / np.sqrt(squares)
