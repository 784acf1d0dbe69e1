"""How a figure of a run is read from two statistics in a row: for the page's charts and the terminal's sparklines."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from protocol.statistics import PeerStatistics, RunStatistics

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Pair:
    """Statistics, and those of ``seconds`` before; None for the first ones."""

    now: RunStatistics
    before: RunStatistics | None = None
    seconds: float = 0.0


Read = Callable[[Pair], float | None]


def field(name: str, scale: float = 1.0) -> Read:
    """As it is, in another unit."""

    def read(pair: Pair) -> float | None:
        value = getattr(pair.now, name)
        return None if value is None else scale * float(value)

    return read


def rate(name: str) -> Read:
    """Per second; None where the count has gone down, since the run was taken back to a checkpoint."""

    def read(pair: Pair) -> float | None:
        if pair.before is None or pair.seconds <= 0.0:
            return None
        grown = getattr(pair.now, name) - getattr(pair.before, name)
        return grown / pair.seconds if grown >= 0 else None

    return read


def share(part: str, whole: str) -> Read:
    """Of two totals."""

    def read(pair: Pair) -> float | None:
        total = getattr(pair.now, whole)
        return getattr(pair.now, part) / total if total else None

    return read


def share_since(part: str, whole: str) -> Read:
    """Of what has been added to two totals since the statistics before; None where nothing was."""

    def read(pair: Pair) -> float | None:
        if pair.before is None:
            return None
        return _share_of_growth(pair.before, pair.now, part, whole)

    return read


def of_role(role: str, name: str, scale: float) -> Read:
    """Added up over the connected roles of a kind."""

    def read(pair: Pair) -> float | None:
        found = [getattr(p, name) * scale for p in pair.now.peers if p.role == role]
        return sum(found) if found else None

    return read


def field_of(peer: str, name: str) -> Read:
    """Of one role, as it is."""

    def read(pair: Pair) -> float | None:
        now, _ = _two(pair, peer)
        return None if now is None else float(getattr(now, name))

    return read


def rate_of(peer: str, name: str) -> Read:
    """Of one role, per second."""

    def read(pair: Pair) -> float | None:
        now, before = _two(pair, peer)
        if now is None or before is None or pair.seconds <= 0.0:
            return None
        grown = getattr(now, name) - getattr(before, name)
        return grown / pair.seconds if grown >= 0 else None

    return read


def share_since_of(peer: str, part: str, whole: str) -> Read:
    """Of one role: see ``share_since``."""

    def read(pair: Pair) -> float | None:
        now, before = _two(pair, peer)
        return _share_of_growth(before, now, part, whole) if now is not None and before is not None else None

    return read


def _two(pair: Pair, name: str) -> tuple[PeerStatistics | None, PeerStatistics | None]:
    """A role now and before."""
    now = next((p for p in pair.now.peers if p.name == name), None)
    before = next((p for p in pair.before.peers if p.name == name), None) if pair.before is not None else None
    return now, before


def _share_of_growth(before: object, now: object, part: str, whole: str) -> float | None:
    grown = getattr(now, whole) - getattr(before, whole)
    return (getattr(now, part) - getattr(before, part)) / grown if grown > 0 else None


def sparkline(values: Collection[float], top: float = 0.0) -> str:
    """One bar for each value, the highest for the greatest, or for ``top`` where that is more."""
    top = max(*values, top, 1e-12)
    return "".join(BARS[min(len(BARS) - 1, max(0, int(value / top * len(BARS))))] for value in values)
