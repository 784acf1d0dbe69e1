"""Stochastic subgradient descent on the linear SVM: plain, with importance sampling, and with shrinking.

The step length is 1/(λ (k + n)) at the k-th instance presented: it begins at C and ends as 1/(λ k), which O(1/k) needs.
Importance sampling computes all utilities anew at the beginning of each pass, as the authors of AutoAssist do, and
draws with them mixed half and half with the uniform distribution, so that no weight exceeds 2. Seconds are the thread's
own on the CPU, which other load on the machine disturbs less than a clock's; they count these computations, and leave
out the measuring of the objective.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from math import sqrt

import numpy as np

from benchmarks.svm_problem import Floats, Problem, Utility

UNIFORM_SHARE = 0.5


@dataclass(frozen=True)
class Method:
    """A way to choose the instances that are trained."""

    name: str
    importance: Utility | None = None
    """Draw with probability ∝ this, and weigh by its inverse: unbiased."""
    shrink: Utility | None = None
    """Skip an instance whose utility is below T_k, but for the base probability (Algorithm 1)."""


METHODS = (
    Method("plain SGD"),
    Method("importance, loss", importance="loss"),
    Method("importance, gradient norm", importance="gradient"),
    Method("shrinking, loss", shrink="loss"),
    Method("shrinking, gradient norm", shrink="gradient"),
)


@dataclass
class Trace:
    """What was measured at each mark."""

    updates: list[int] = field(default_factory=list)
    presented: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    w: Floats = field(default_factory=lambda: np.zeros(0))


def marks(updates: int, first: int, count: int = 60) -> list[int]:
    """Numbers of updates at which to measure, evenly on a logarithmic axis."""
    return sorted(set(np.geomspace(min(first, updates), updates, count).astype(int).tolist()))


def one_pass(
    problem: Problem, method: Method, w: Floats, rng: np.random.Generator
) -> tuple[list[int], Iterable[float], Iterable[float]]:
    """Instances of one pass in order, their weights, and the numbers that decide on their base probability."""
    n = len(problem.rows)
    if method.importance is None:
        coins = rng.random(n).tolist() if method.shrink else repeat(0.0)
        return rng.permutation(n).tolist(), repeat(1.0), coins
    utilities = problem.utilities(w, method.importance)
    uniform = UNIFORM_SHARE if utilities.sum() > 0 else 1.0
    probabilities = uniform / n + (1.0 - uniform) * utilities / max(float(utilities.sum()), 1e-300)
    ids = rng.choice(n, size=n, p=probabilities / probabilities.sum())
    return ids.tolist(), (1.0 / (n * probabilities[ids])).tolist(), repeat(0.0)


def utility(kind: Utility, margin: float, lam: float, norm2: float, square: float) -> float:
    """`Problem.utilities` of one instance, from what the update needs anyway."""
    if kind == "loss":
        return max(0.0, 1.0 - margin) + 0.5 * lam * norm2
    if margin >= 1.0:
        return lam * sqrt(norm2)
    return sqrt(max(0.0, lam * lam * norm2 - 2.0 * lam * margin + square))


def descend(
    problem: Problem, method: Method, measure_at: list[int], *, epsilon: float, base: float, seed: int
) -> Trace:
    """Train until the last mark; ``epsilon`` sets T_k = ε/(k+1), ``base`` is the base probability."""
    rng, trace, left = np.random.default_rng(seed), Trace(), list(reversed(measure_at))
    rows, lam, shrink, n = problem.rows, problem.lam, method.shrink, len(problem.rows)
    squares = problem.squares.tolist()
    w, updates, presented, seconds = np.zeros(rows.shape[1]), 0, 0, 0.0
    began = time.thread_time()
    while True:
        norm2 = float(w @ w)  # anew each pass: what is carried along below drifts
        for i, weight, coin in zip(*one_pass(problem, method, w, rng), strict=False):
            row = rows[i]
            margin = float(row.dot(w))
            rate = weight / (lam * (presented + n))
            presented += 1
            if shrink and coin >= base and utility(shrink, margin, lam, norm2, squares[i]) < epsilon / presented:
                continue
            decay = 1.0 - rate * lam
            w *= decay
            norm2 *= decay * decay
            if margin < 1.0:
                w += rate * row
                norm2 += 2.0 * rate * decay * margin + rate * rate * squares[i]
            updates += 1
            if updates == left[-1]:
                seconds += time.thread_time() - began
                for series, value in zip(
                    (trace.updates, trace.presented, trace.seconds, trace.objective),
                    (left.pop(), presented, seconds, problem.objective(w)),
                    strict=True,
                ):
                    series.append(value)  # type: ignore[attr-defined]
                if not left:
                    trace.w = w
                    return trace
                began = time.thread_time()


def slope(updates: list[int], gaps: list[float], start: int) -> float:
    """Exponent of the gap in the number of updates: a line through the marks from ``start`` on, log-log."""
    chosen = np.asarray(updates) >= start
    return float(np.polyfit(np.log(np.asarray(updates)[chosen]), np.log(np.asarray(gaps)[chosen]), 1)[0])
