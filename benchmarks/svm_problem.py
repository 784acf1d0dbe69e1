"""The convex problem: a linear SVM, its objective, and its optimum with a certificate.

F(w) = 1/n Σ max(0, 1 - y_i w·x_i) + λ/2 ‖w‖²,   λ = 1/(C n)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Utility = Literal["loss", "gradient"]


@dataclass(frozen=True)
class Problem:
    """The instances as they enter the objective: features times label."""

    rows: Floats
    """``y_i x_i``, shape ``(n, d)``; the margin of an instance is its row times ``w``."""

    lam: float
    """λ."""

    squares: Floats
    """``‖x_i‖²``, shape ``(n,)``."""

    @classmethod
    def of(cls, features: NDArray[np.generic], labels: NDArray[np.int64], c: float) -> Problem:
        """From features ``(n, d)`` and labels 0 and 1."""
        rows = features.astype(np.float64) * (2.0 * labels - 1.0)[:, None]
        return cls(rows=rows, lam=1.0 / (c * len(rows)), squares=(rows * rows).sum(axis=1))

    def objective(self, w: Floats) -> float:
        """F(w)."""
        return float(np.maximum(0.0, 1.0 - self.rows @ w).mean() + 0.5 * self.lam * (w @ w))

    def utilities(self, w: Floats, kind: Utility) -> Floats:
        """Of each instance's own f_i = hinge loss + λ/2 ‖w‖²: its value, or the norm of its subgradient."""
        margins, norm2 = self.rows @ w, float(w @ w)
        if kind == "loss":
            return np.maximum(0.0, 1.0 - margins) + 0.5 * self.lam * norm2
        of_loss = np.where(margins < 1.0, self.squares - 2.0 * self.lam * margins, 0.0)
        return np.sqrt(np.maximum(0.0, self.lam**2 * norm2 + of_loss))


@dataclass(frozen=True)
class Optimum:
    """A solution to high precision."""

    w: Floats
    value: float
    """F(w)."""
    duality_gap: float
    """F(w) is at most this far above the least value: the dual objective at a feasible point proves it."""


def optimum(problem: Problem, precision: float = 1e-9) -> Optimum:
    """Newton on a hinge whose corner is rounded over a width that goes to zero, until the duality gap is small.

    At the rounded optimum the slopes of the losses, 0 … 1, are a feasible point of the dual.
    Raises ValueError where the arithmetic ends before the precision is reached.
    """
    w, width, best_dual = np.zeros(problem.rows.shape[1]), 1.0, -np.inf
    while width > 1e-9:
        w, slopes = _newton(problem, w, width)
        v = slopes @ problem.rows / (len(problem.rows) * problem.lam)
        best_dual = max(best_dual, float(slopes.mean() - 0.5 * problem.lam * (v @ v)))
        gap = problem.objective(w) - best_dual
        if gap <= precision:
            return Optimum(w, problem.objective(w), gap)
        width /= 4.0
    raise ValueError(f"precision={precision} is not reached; the duality gap is {gap:.1e}")


def _newton(problem: Problem, w: Floats, width: float) -> tuple[Floats, Floats]:
    """The optimum of the problem with rounded corners, from ``w`` on, and the losses' slopes there."""
    n, d = problem.rows.shape
    for _ in range(60):
        slopes = np.clip((1.0 - problem.rows @ w) / width, 0.0, 1.0)
        gradient = problem.lam * w - slopes @ problem.rows / n
        if np.abs(gradient).max() < 1e-12:
            break
        curved = problem.rows[(slopes > 0.0) & (slopes < 1.0)]
        hessian = problem.lam * np.eye(d) + curved.T @ curved / (n * width)
        step, before, scale = np.linalg.solve(hessian, -gradient), _rounded(problem, w, width), 1.0
        while _rounded(problem, w + scale * step, width) > before + 1e-4 * scale * (gradient @ step):
            scale /= 2.0
            if scale < 1e-9:
                return w, slopes
        w = w + scale * step
    return w, np.clip((1.0 - problem.rows @ w) / width, 0.0, 1.0)


def _rounded(problem: Problem, w: Floats, width: float) -> float:
    short = np.maximum(0.0, 1.0 - problem.rows @ w)
    losses = np.where(short >= width, short - width / 2.0, short * short / (2.0 * width))
    return float(losses.mean() + 0.5 * problem.lam * (w @ w))
