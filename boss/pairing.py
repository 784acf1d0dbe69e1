"""Whether each batch of a script gets its one report: the mistakes that would pair losses with other instances."""

from __future__ import annotations

import multiprocessing
from typing import Protocol

from torch import Tensor

from protocol.errors import FeedMisuse

MOST_AHEAD = 1024
"""Batches that may be taken before the first is reported: more than any DataLoader's workers fetch ahead."""
MOST_PER_WORKER = 16
"""More batches than a DataLoader fetches ahead for each of its workers; 2 where no ``prefetch_factor`` is given."""
PER_TOKEN = "(losses * mask).sum(1) / mask.sum(1) where there is padding, with counts=mask.sum(1) beside them"
NOT_REPORTED = "a batch was not reported; call feed.report(losses) once for each, or feed.skip()"

NOT_DELIVERED = (
    "report: this batch was never delivered, as when its data set raised; iterate again, the same batch comes first. "
    "For an instance that cannot be read give something in its place, and feed.skip() once the batch is there"
)


class Pairing(Protocol):
    """What happens to the batches of one iteration; raises FeedMisuse where one has none, or two reports."""

    def followed_by(self, pairing: Pairing, /) -> Pairing:
        """Another iteration begins, of which that one is; gives the one that holds from here on."""

    def before_pull(self, unreported: int, /) -> None:
        """A batch is asked for, while so many that were taken have no report yet."""

    def reported(self) -> None:
        """A report or a skip comes."""

    def epoch_ends(self, unreported: int, /) -> None:
        """There is no batch more, while so many that were taken have no report yet."""


class Counted:
    """Of ``feed.loader``, which sees each batch reach the script."""

    def __init__(self, lookahead: int) -> None:
        self._lookahead = lookahead
        self._unreported = 0
        self._is_awaited = True
        """Whether the script has asked for a batch that has not reached it."""

    def followed_by(self, pairing: Pairing) -> Pairing:
        """See Pairing."""
        return pairing

    def before_pull(self, unreported: int) -> None:
        """A DataLoader's workers fetch ahead as they like."""

    def asked_for(self) -> None:
        """The script wants a batch."""
        if self._unreported > self._lookahead:
            raise FeedMisuse(NOT_REPORTED)
        self._is_awaited = True

    def delivered(self) -> None:
        """The script has a batch more."""
        self._unreported += 1
        self._is_awaited = False

    def all_delivered(self) -> None:
        """The script knows that there is no other batch."""
        self._is_awaited = False

    def epoch_ends(self, unreported: int) -> None:
        """A DataLoader's workers know of the end before the script does."""

    def reported(self) -> None:
        """See Pairing."""
        if not self._unreported and self._is_awaited:
            raise FeedMisuse(NOT_DELIVERED)
        if not self._unreported:
            raise FeedMisuse("report: this batch has its report already; report each batch of the feed exactly once")
        self._unreported -= 1


class Steady:
    """Of a ``batch_sampler``, which sees only that batches are asked for.

    How many a loader takes ahead shows until the first report, and never grows from there on: where it does, a report
    is missing. One that is missing before the first report of an iteration is not found, unless all of them are.
    """

    def __init__(self) -> None:
        self._most_ahead = 0
        self._has_report = False
        self._unreported_epoch = 0
        """Batches of an epoch that the script has had whole, as far as can be told."""

    def before_pull(self, unreported: int) -> None:
        """See Pairing."""
        if unreported > (self._most_ahead if self._has_report else MOST_AHEAD):
            raise FeedMisuse(f"{unreported} batches wait for losses: {NOT_REPORTED}, before more are asked for")
        self._most_ahead = max(self._most_ahead, unreported)

    def reported(self) -> None:
        """See Pairing."""
        self._has_report = True

    def epoch_ends(self, unreported: int) -> None:
        """See Pairing. Workers meet the end of a short epoch while the script looks at its first batch, and may leave
        it at that."""
        if unreported > MOST_PER_WORKER * len(multiprocessing.active_children()):
            self._unreported_epoch = unreported

    def followed_by(self, pairing: Pairing) -> Pairing:
        """See Pairing. Raises FeedMisuse, once, where the script has had a whole epoch and has reported nothing: it
        would get it again and again."""
        had, self._unreported_epoch = self._unreported_epoch, 0
        if had and not self._has_report and isinstance(pairing, Steady):
            raise FeedMisuse(f"{had} batches, a whole epoch, wait for losses: {NOT_REPORTED}")
        return pairing


class Closed:
    """Of a feed that is closed: its batches would come from nowhere, and its reports go there."""

    def followed_by(self, _: Pairing) -> Pairing:
        """See Pairing."""
        return self

    def before_pull(self, _: int) -> None:
        """See Pairing."""
        require_open(is_closed=True)

    def reported(self) -> None:
        """See Pairing."""
        require_open(is_closed=True)

    def epoch_ends(self, _: int) -> None:
        """See Pairing."""


def require_open(*, is_closed: bool) -> None:
    """Raise FeedMisuse where the feed is closed."""
    if is_closed:
        raise FeedMisuse("this feed is closed; begin another one with Feed.local or Feed.connect")


def require_losses(losses: Tensor, counts: Tensor | None, expected: int | None) -> None:
    """Raise FeedMisuse unless there is one loss for each of the ``expected`` instances of the batch at hand, and one
    number of tokens for each loss, where they are given."""
    if isinstance(counts, Tensor) and isinstance(losses, Tensor) and counts.shape != losses.shape:
        shapes = f"counts have shape {tuple(counts.shape)}, losses {tuple(losses.shape)}"
        raise FeedMisuse(f"report: {shapes}; give the number of tokens of each instance, mask.sum(1)")
    if counts is not None and not isinstance(counts, Tensor):
        raise FeedMisuse(f"report: counts={counts!r}: must be a tensor of each instance's tokens, mask.sum(1)")
    if not isinstance(losses, Tensor):
        raise FeedMisuse(f"report: losses={losses!r}: must be a tensor of one loss per instance, before .item()")
    if losses.dim() == 1 and expected in (None, len(losses)):
        return
    if losses.dim() == 0:
        remedy = 'compute the loss with reduction="none"'
    elif losses.dim() == 1:
        remedy = 'give a loss for each instance of the batch, in its order, and compute it with reduction="none"'
    else:
        remedy = f"take the mean over each instance's tokens or pixels, losses.flatten(1).mean(1), or {PER_TOKEN}"
    wanted = "batch" if expected is None else expected
    shape = tuple(losses.shape)
    raise FeedMisuse(f"report: losses have shape {shape}, expected ({wanted},): one per instance; {remedy}")
