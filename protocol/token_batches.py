"""Batches by a budget of tokens instead of a number of instances: what both ends must draw alike, and no I/O.

A batch is as large as its padded size: rows times the longest of them. So instances are sorted by length, and a step
is one batch for each rank out of one stretch of them: of neighbours, so that little is padded, and all ranks have as
much to do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import SettingError
from protocol.settings import MAX_STEP_INSTANCES, RunSettings

I32 = NDArray[np.int32]
CHUNK = 1 << 18
"""Lengths in one message."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions in the order of length that make a step: rank r takes ``cuts[r] … cuts[r+1]-1``."""

    cuts: tuple[int, ...]
    is_full: bool
    """Whether each rank has a batch, into which no more of its kind would go."""

    @property
    def start(self) -> int:
        """First position."""
        return self.cuts[0]

    @property
    def stop(self) -> int:
        """One behind the last position."""
        return self.cuts[-1]


def divide(lengths: NDArray[Any], settings: RunSettings, *, from_longest: bool) -> list[Stretch]:
    """All of these into steps; ``lengths`` ascend. What is left at the far end makes the last one, full or not.

    Where a whole stretch is taken away, the others stay what they are. So a pool that is divided anew for each step
    gives the steps into which it was divided first.
    """
    grow = _down if from_longest else _up
    most_rows = max(1, MAX_STEP_INSTANCES // settings.world_size)
    budget, position = settings.max_tokens or 1, len(lengths) if from_longest else 0
    found: list[Stretch] = []
    while position != (0 if from_longest else len(lengths)):
        cuts, is_full = [position], True
        for _ in range(settings.world_size):
            rows, has_room = grow(lengths, position, budget, most_rows)
            position += -rows if from_longest else rows
            is_full = is_full and not has_room
            if rows:
                cuts.append(position)
        found.append(Stretch(tuple(sorted(cuts)), is_full))
    return found


def _down(lengths: NDArray[Any], stop: int, budget: int, most_rows: int) -> tuple[int, bool]:
    """Rows of the batch whose longest is before ``stop``, and whether more would go into it."""
    if not stop:
        return 0, True
    rows = max(1, min(budget // int(lengths[stop - 1]), most_rows))
    return min(rows, stop), rows > stop


def _up(lengths: NDArray[Any], start: int, budget: int, most_rows: int) -> tuple[int, bool]:
    """Rows of the batch whose shortest is at ``start``, and whether more would go into it."""
    left = len(lengths) - start
    if not left:
        return 0, True
    most = max(1, min(left, budget // int(lengths[start]), most_rows))
    padded = np.arange(1, most + 1) * lengths[start : start + most]
    rows = max(1, int(np.searchsorted(padded, budget, side="right")))
    has_room = rows == left and rows < most_rows and (rows + 1) * int(lengths[-1]) <= budget
    return rows, has_room


def for_all_ranks(cuts: Sequence[int], ranks: int) -> list[int]:
    """The same positions with a batch for each rank: the batch with the most rows is halved until there are enough.

    A rank still goes without where there are fewer instances than ranks.
    """
    found = list(cuts)
    while len(found) <= ranks:
        rows = [stop - start for start, stop in pairwise(found)]
        most = max(range(len(rows)), key=rows.__getitem__)
        if rows[most] < 2:
            break
        found.insert(most + 1, found[most] + (rows[most] + 1) // 2)
    return found


def padded_tokens(lengths: NDArray[Any], rank_counts: Sequence[int]) -> int:
    """Rows times the longest, over all ranks; ``lengths`` of a step's instances, rank by rank."""
    found, start = 0, 0
    for count in rank_counts:
        found += count * int(lengths[start : start + count].max(initial=0))
        start += count
    return found


def require_lengths(lengths: NDArray[Any], n: int, max_tokens: int) -> I32:
    """Lengths as they are kept; raises SettingError where they are not those of ``n`` instances, or one is too long."""
    try:
        array = np.asarray(lengths)
    except ValueError as error:
        raise SettingError(f"lengths: {error}; give a whole number for each of {n} instances") from None
    if not n or array.shape != (n,) or array.dtype.kind not in "iu":
        raise SettingError(
            f"lengths: {array.dtype} of shape {array.shape}; give a whole number for each of {n} instances"
        )
    shortest, longest = int(array.argmin()), int(array.argmax())
    if array[shortest] < 1:
        raise SettingError(f"lengths: instance {shortest} has length {array[shortest]}; each is at least 1 token long")
    if array[longest] > max_tokens:
        raise SettingError(
            f"max_tokens={max_tokens}: instance {longest} is {array[longest]} tokens long; raise --max-tokens to that, "
            "or cut or leave out what is longer"
        )
    return np.ascontiguousarray(array, dtype="<i4")


class LengthsDigest:
    """Names lengths that come in pieces, from the first on, as ``lengths_id`` names them whole.

    All are looked at: 4 GB for a thousand million, some seconds in one go.
    """

    def __init__(self) -> None:
        self.count = 0
        """Lengths so far."""
        self._hash = hashlib.sha256()

    def add(self, lengths: NDArray[Any]) -> None:
        """The next piece."""
        self.count += len(lengths)
        self._hash.update(np.ascontiguousarray(lengths, dtype="<i4").data)

    def name(self) -> str:
        """Of those so far."""
        return self._hash.hexdigest()[:32]


def lengths_id(lengths: I32 | None) -> str:
    """What two roles compare to be sure that they speak of the same lengths; "" for none."""
    if lengths is None:
        return ""
    digest = LengthsDigest()
    digest.add(lengths)
    return digest.name()


def typical_batch_size(lengths: I32, settings: RunSettings) -> int:
    """Instances of a rank's batch, on the average."""
    assert settings.max_tokens is not None
    return max(1, min(int(settings.max_tokens / float(lengths.mean())), MAX_STEP_INSTANCES // settings.world_size))


def usual_steps(n: int, settings: RunSettings, lengths: I32 | None) -> int:
    """Steps of a whole epoch; by tokens about as many, with a tenth for padding."""
    if lengths is None or settings.max_tokens is None:
        return -(-n // settings.step_instances)
    return max(1, math.ceil(1.1 * int(lengths.sum(dtype=np.int64)) / (settings.max_tokens * settings.world_size)))
