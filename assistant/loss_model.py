"""What an instance would lose now, from what is known of it: the regression behind the default policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import State
from protocol.arrays import F32

DECAY = 0.998
"""Of what earlier reports say of the coefficients, per report: some 500 reports count."""
RIDGE = 5.0
"""Pull of every coefficient towards 0, in instances: a few reports' worth of them overcome it."""
PRIOR = 50.0
"""The same at the beginning only; it is forgotten like the reports, and keeps the first steps short."""
MOST_RELATIVE_LOSS = 8.0
"""A loss of more counts as this: a few that are lost for good shall not move what is said of all others."""
MOST_WEIGHT = 10.0
LEAST_LOGARITHM, MOST_LOGARITHM = np.float32(-7.0), np.float32(3.0)


class LossModel:
    """E[loss_i / T̄] = exp(β·h_i), T̄ the running mean, fitted online by quasi-likelihood.

    Mean and variance function are those of a Poisson regression (Wedderburn, Biometrika 1974): no distribution is
    assumed, and the predictions have the mean of what is observed, so that they need no scale of their own. One Newton
    step for each report, on a matrix of second derivatives that forgets. ``h`` has shape (k, ``width``) float32.
    """

    def __init__(self, width: int) -> None:
        self.coefficients: NDArray[np.float64] = np.zeros(width)
        self._curvature = PRIOR * np.eye(width)
        self.updates = 0

    def state_dict(self) -> State:
        """Coefficients, curvature and the number of updates."""
        return {
            "coefficients": self.coefficients.copy(),
            "curvature": self._curvature.copy(),
            "updates": np.array([self.updates]),
        }

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self.coefficients[...], self._curvature[...] = state["coefficients"], state["curvature"]
        self.updates = int(state["updates"][0])

    def predict(self, history: F32) -> F32:
        """Expected loss of each instance in units of T̄, shape ``(k,)``."""
        predicted: F32 = history @ self.coefficients.astype(np.float32)
        np.maximum(predicted, LEAST_LOGARITHM, out=predicted)
        np.minimum(predicted, MOST_LOGARITHM, out=predicted)
        np.exp(predicted, out=predicted)
        return predicted

    def learn(self, history: F32, relative_losses: F32, weights: F32) -> None:
        """One step on a report: losses in units of T̄, weights 1/π, both of shape ``(k,)``."""
        predicted = self.predict(history)
        targets = np.clip(relative_losses, 0.0, MOST_RELATIVE_LOSS)
        limited = np.minimum(weights, MOST_WEIGHT)
        h = history.astype(np.float64)
        self._curvature *= DECAY
        self._curvature += (h * (limited * predicted)[:, None]).T @ h
        steep = self._curvature + RIDGE * np.eye(len(self.coefficients))
        self.coefficients += np.linalg.solve(steep, h.T @ (limited * (targets - predicted)))
        self.updates += 1
