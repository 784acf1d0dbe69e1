"""Two guards against harm, which no lift shows: wrong labels, and classes that are crowded out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import RecentLosses, State, gather, scatter
from assistant.tables import Tables
from protocol.arrays import F32, I64, empty_i64

BEGINNING = 512
"""Losses whose mean says what an untrained Boss loses."""
FOR_LONG = 3
"""Reports in a row above that level which set an instance aside."""
SET_ASIDE = 0.05
"""π of what is set aside; low, and not 0, so that it can come back."""
NOISY = 0.025
"""Share of all instances from which on the guard acts by itself. Measured at the end of whole runs on validation
parts: 0.4 % of Fashion-MNIST, less of MNIST, rotated or not, and of imbalanced Fashion-MNIST would be set aside; with a
tenth of the labels wrong 9.7 % of rotated MNIST. At a learning rate that has not decayed, Fashion-MNIST has 1.2 %."""
MOST_KEPT = 65504.0
"""The greatest number of half precision."""
CHUNK = 1 << 20
"""Instances that are gone through at a time."""
LEARNED = 0.5
"""By itself the guard acts once the median loss is below this part of what it was in the beginning: of a Boss that has
not learned yet, half of the instances lie above an untrained one's loss, and none of them is wrong for that."""


class NoiseGuard:
    """Sets aside what the Boss contradicts for long: loss above that of an untrained Boss, three reports in a row.

    Ours, from the prototype's loss cap, with its level (3 for ten classes) measured instead of given: a Boss that knows
    nothing loses the mean of the run's first 512 losses; who loses more than that after others were learned is not hard
    but contradicted. One report below the level brings an instance back.

    With a tenth of Fashion-MNIST's labels wrong it found 94 % of them in six epochs, and 91 % of what it found was
    wrong. On clean data it finds ambiguous ones; ``by_itself`` it acts only where it finds more than those, and once
    the Boss has learned most of the others. Four bytes an instance.
    """

    def __init__(self, n: int, *, by_itself: bool = False, tables: Tables | None = None) -> None:
        self.by_itself = by_itself
        self.found = 0
        """How many instances are above the level for long."""
        # Reports in a row above the level, up to 255, and the bits of the last loss, as exact as an order needs it.
        self._table = (Tables() if tables is None else tables).make("guard", n, 2, np.uint16)
        self.recent = RecentLosses()
        """Of all instances, by the unbiased stream."""
        self._median_before = math.nan
        self._sum = 0.0
        self._count = 0

    def state_dict(self) -> State:
        """Everything that ``observe`` has changed."""
        beginning = np.array([self._sum, self._count, self._median_before])
        own: State = {"beginning": beginning, "found": np.array([self.found]), **self._table.state()}
        return {**own, **gather({"recent": self.recent})}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._table.load(state)
        self.found = int(state["found"][0])
        self._sum, self._count = float(state["beginning"][0]), int(state["beginning"][1])
        self._median_before = float(state["beginning"][2])
        scatter({"recent": self.recent}, state)

    @property
    def level(self) -> float:
        """Loss of an untrained Boss; infinite until it is known."""
        return self._sum / self._count if self._count >= BEGINNING else float("inf")

    def observe(self, ids: I64, losses: F32, weights: F32 | None = None) -> None:
        """Take in finite losses; ``weights`` are 1/π, which was 1 for all if not given."""
        self.recent.add(losses, np.ones_like(losses) if weights is None else weights)
        if self._count < BEGINNING:
            self._sum += float(losses.sum(dtype=np.float64))
            self._count += len(losses)
            self._median_before = self.recent.quantile(0.5)
            return
        before = self._count_found(ids)
        rows = self._table.rows.take(ids, axis=0)
        rows[:, 0] = np.where(losses > self.level, np.minimum(rows[:, 0], 254) + 1, 0)
        rows[:, 1] = np.clip(losses, -MOST_KEPT, MOST_KEPT).astype(np.float16).view(np.uint16)
        self._table.put(ids, rows)
        self.found += self._count_found(ids) - before

    @property
    def streak(self) -> NDArray[np.uint16]:
        """Reports in a row above the level, up to 255; a view of shape ``(n,)``."""
        streak: NDArray[np.uint16] = self._table.rows[:, 0]
        return streak

    def _count_found(self, ids: I64) -> int:
        return int((self._table.rows[np.unique(ids), 0] >= FOR_LONG).sum())

    @property
    def acts(self) -> bool:
        """Whether what is found is set aside."""
        return not self.by_itself or (self.found > NOISY * len(self._table.rows) and self._has_learned)

    @property
    def _has_learned(self) -> bool:
        return self.recent.quantile(0.5) < LEARNED * self._median_before

    def is_set_aside(self, ids: I64) -> NDArray[np.bool_]:
        """Which of these are, shape ``(k,)``."""
        return (self.streak[ids] >= FOR_LONG) & self.acts

    @property
    def set_aside(self) -> I64:
        """IDs of all that are, the most certain first: longest above the level, then by the last loss."""
        if not self.acts:
            return empty_i64()
        starts = range(0, len(self._table.rows), CHUNK)
        ids = np.concatenate(
            [start + np.flatnonzero(self.streak[start : start + CHUNK] >= FOR_LONG) for start in starts]
        )
        rows = self._table.rows.take(ids, axis=0)
        losses = rows[:, 1].view(np.float16)
        return ids[np.lexsort((-losses, -rows[:, 0].astype(np.int64)))]


def with_class_floor(keep: F32, labels: NDArray[np.int64], share: float) -> F32:
    """π raised so that no class falls below ``share`` of its frequency among the candidates, in expectation.

    With m_c the mean π of a class and m that of all, its frequency among the kept is m_c / m of that among the
    candidates; where it is below ``share``, each π of the class moves the same part of its way to 1, which leaves their
    order. The raised classes raise m too, so the level is solved for. Decided within each window alone, and so harsher
    than the share over a whole epoch where a window has few of a class; it keeps the answer a function of what was
    learned. Shapes ``(k,)``.
    """
    _, classes = np.unique(labels, return_inverse=True)
    counts = np.bincount(classes)
    means = np.bincount(classes, weights=keep) / counts
    level = _level(means, counts / len(keep), share)
    if (means >= level).all():
        return keep
    way = np.where(means < level, (level - means) / np.maximum(1.0 - means, 1e-12), 0.0)
    raised: F32 = (keep + way[classes] * (1.0 - keep)).astype(np.float32)
    return np.minimum(raised, np.float32(1.0))


def _level(means: NDArray[np.float64], frequencies: NDArray[np.float64], share: float) -> float:
    """The least mean π of a class, ``share · m`` with m = Σ f_c · max(m_c, share · m)."""
    order = np.argsort(means)
    means, frequencies = means[order], frequencies[order]
    above = float(means @ frequencies)
    below = 0.0
    for mean, frequency in zip(means, frequencies, strict=True):
        level = share * above / max(1.0 - share * below, 1e-12)
        if mean >= level:
            return min(level, 1.0)
        above -= mean * frequency
        below += frequency
    return float(means[-1])
