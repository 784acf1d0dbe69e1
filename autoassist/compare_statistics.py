"""What a comparison computes from its runs: the saving at equal metric, and paired differences. No I/O.

**The saving at equal metric.** The full epoch, trained with each budget to a fully decayed learning rate, gives points
(mean cost, mean metric) over the seeds, cost in Boss passes or in seconds; straight lines join them. For a policy that
reaches the mean metric m at the mean cost c, the full epoch would need the cost u at which that line *first* reaches m,
and the saving is 1 - c / u. So 0.4 says: what the policy reached cost 40 % less than the full epoch would need for it.

* Where noise makes the line fall and rise again, its first crossing counts, which can only make a saving smaller.
* m above the whole line: the full epoch would need more than its full budget; u is then that, and the saving a lower
  bound (``at_least``).
* m below the whole line: the full epoch does better already with its least budget, and the line never crosses m: the
  saving is none (None; -inf while computing).

**Its interval** is the percentile bootstrap over seeds: seeds are drawn with replacement, the same ones for the policy
and for the line, and everything is computed anew. It reaches from the 2.5th to the 97.5th percentile; draws without a
crossing count as -inf, draws above the line as their bound. With three seeds that is about the range over the seeds,
narrower than what its name promises; with one there is none.

**Paired differences** are taken seed by seed, with Student's t interval of 95 %, which is wide for few seeds as it
should be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

NONE = -math.inf
LEVEL = 0.95
RESAMPLES = 2000
BOOTSTRAP_SEED = 1
NORMAL_975 = 1.959963984540054
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, 97.5 %, for 1 … 10 degrees of freedom."""


@dataclass(frozen=True)
class Curve:
    """The full epoch's points, by rising budget: costs and metrics of shape (budgets, seeds); higher is better."""

    costs: F64
    metrics: F64


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; ``low`` and ``high`` are None where one seed gives none."""

    value: float
    low: float | None
    high: float | None

    @property
    def is_above(self) -> bool:
        """Whether all of the interval lies above 0."""
        return self.low is not None and self.low > 0.0

    @property
    def is_below(self) -> bool:
        """Whether all of the interval lies below 0."""
        return self.high is not None and self.high < 0.0


def first_crossing(costs: Sequence[float], metrics: Sequence[float], level: float) -> float | None:
    """The least cost at which the line through the points reaches ``level``; None where it never does, inf where it
    lies below it everywhere.

    A line that begins above ``level`` does not cross it, whatever noise makes it do later.
    """
    if level < metrics[0]:
        return None
    if level == metrics[0]:
        return costs[0]
    for i in range(1, len(costs)):
        if metrics[i] >= level:
            share = (level - metrics[i - 1]) / (metrics[i] - metrics[i - 1])
            return costs[i - 1] + share * (costs[i] - costs[i - 1])
    return math.inf


def height(costs: Sequence[float], metrics: Sequence[float], cost: float) -> float:
    """The line's metric at a cost; its ends' beyond them."""
    return float(np.interp(cost, costs, metrics))


def saving_of(costs: Sequence[float], metrics: Sequence[float], cost: float, metric: float) -> tuple[float, bool]:
    """(saving, whether it is a lower bound) of one point against the line; -inf where the line never crosses."""
    needed = first_crossing(costs, metrics, metric)
    if needed is None:
        return NONE, False
    if math.isinf(needed):
        return 1.0 - cost / costs[-1], True
    return 1.0 - cost / needed, False


def saving(curve: Curve, costs: F64, metrics: F64) -> tuple[Interval, bool]:
    """The saving of a policy's runs (shape (seeds,)) with its bootstrap interval, and whether it is a lower bound."""
    seeds = len(metrics)
    value, at_least = _saving_over(curve, costs, metrics, np.arange(seeds))
    if seeds == 1:
        return Interval(value, None, None), at_least
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, seeds, size=(RESAMPLES, seeds))
    found = np.sort([_saving_over(curve, costs, metrics, draw)[0] for draw in draws])
    tail = (1.0 - LEVEL) / 2.0
    low = found[math.floor(tail * (RESAMPLES - 1))]
    high = found[math.ceil((1.0 - tail) * (RESAMPLES - 1))]
    return Interval(value, float(low), float(high)), at_least


def _saving_over(curve: Curve, costs: F64, metrics: F64, chosen: NDArray[np.int64]) -> tuple[float, bool]:
    line = curve.costs[:, chosen].mean(axis=1).tolist(), curve.metrics[:, chosen].mean(axis=1).tolist()
    return saving_of(*line, float(costs[chosen].mean()), float(metrics[chosen].mean()))


def paired_difference(ours: F64, theirs: F64) -> Interval:
    """Mean of ours - theirs over the seeds with Student's t interval; without one for a single seed."""
    differences = ours - theirs
    mean, count = float(differences.mean()), len(differences)
    if count == 1:
        return Interval(mean, None, None)
    reach = student_t(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach)


def student_t(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond ten degrees of freedom by the expansion around the normal's (to 0.002)."""
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    z, v = NORMAL_975, float(freedom)
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def mean_sd(values: F64) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); None for the latter where there is one value."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


MOST_DROP_RATE = 0.95
"""random-drop drops no more than this, whatever its pair has kept."""


def paired_drop_rate(
    *, n: int, passes: int, kept_fraction: float, warmup_epochs: float, anneal_share: float, unscored: float = 0.0
) -> float:
    """Drop rate with which random-drop keeps the same share of all that it is offered as a run of ``passes`` Boss
    passes that kept ``kept_fraction``.

    Both pass everything in the warm-up, in the anneal, and in the share ``unscored`` of the offered that no Assistant
    scores in time. Between these lie m passes, for which passes / kept_fraction less the unfiltered ones must be
    offered; the rate there is 1 - m / offered. 0 where nothing lies between.
    """
    late = unscored * passes / kept_fraction
    unfiltered = min(passes, warmup_epochs * n + anneal_share * passes + late)
    middle = passes - unfiltered
    offered = passes / kept_fraction - unfiltered
    if middle <= 0 or offered <= middle:
        return 0.0
    return min(MOST_DROP_RATE, 1.0 - middle / offered)
