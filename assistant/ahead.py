"""What comes next: the epoch's order is known to whoever knows the run's seed, so an Assistant can look ahead."""

from __future__ import annotations

from typing import NamedTuple

from protocol.arrays import I64
from protocol.order import EpochOrder

CHUNK = 128
"""Instances that are looked at together."""
LEAD_WINDOWS = 64
"""How far ahead of the last window: windows of the usual 256 are offered at a hundred a second where a step takes some
milliseconds, so whoever looks on idle time may stand still for half a second. What is trained between look and offer,
of the epoch before, is looked at in vain."""


class Offered(NamedTuple):
    """Where the run is: a window's epoch, its first and its last instance, and how many it has."""

    epoch: int
    first: int
    last: int
    size: int

    @classmethod
    def of(cls, epoch: int, ids: I64) -> Offered:
        """``ids`` has shape ``(k,)``, k > 0."""
        return cls(epoch, int(ids[0]), int(ids[-1]), len(ids))


class Ahead:
    """Which instances are soon to be offered, in the order in which they will be.

    Windows say how far the run is; what they hold is being scored, so it begins behind them. Where whoever looks is
    slower than the run, it is taken to where the run is, and leaves out what has gone by.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self._order: tuple[int, EpochOrder] = (-1, EpochOrder(n, seed, 0))
        self._offered = 0
        """Instances that the run has offered, all epochs together."""
        self._next = 0
        self._limit = 0

    def offered(self, offered: Offered) -> None:
        """A window has come: the run is at its end now. One that comes late, or again, changes nothing."""
        order = self._order_of(offered.epoch)
        last = max(order.position(offered.first), order.position(offered.last))  # by tokens, the last need not lie last
        through = offered.epoch * self.n + last + 1
        if through > self._offered:
            self._offered = through
            self._next = max(self._next, through)
            self._limit = through + min(LEAD_WINDOWS * offered.size, max(1, self.n // 2))

    def next(self, most: int = CHUNK) -> I64 | None:
        """The next few of an epoch, shape ``(k,)``, k ≤ ``most``; None while all within reach have been looked at."""
        if self._next >= self._limit:
            return None
        epoch, start = divmod(self._next, self.n)
        stop = min(start + most, self.n, start + self._limit - self._next)
        self._next += stop - start
        return self._order_of(epoch).ids(start, stop)

    def _order_of(self, epoch: int) -> EpochOrder:
        if self._order[0] != epoch:
            self._order = (epoch, EpochOrder(self.n, self.seed, epoch))
        return self._order[1]
