"""The Boss's side of the plan: one totally ordered stream of items, each exactly once. No I/O, no thread.

A step is a position in this stream. Batches that the script has pulled wait here for their losses, in order; what is
pulled and never reported is yielded again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from protocol.arrays import F32, I64
from protocol.errors import FeedMisuse
from protocol.messages import AnyMessage, Batch, CheckpointTaken, Credit, EpochEnd, Stop


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What one rank trains in one step."""

    step: int
    epoch: int
    progress: float
    ids: I64
    keep_probabilities: F32
    padding: int
    """Trailing IDs at weight 0."""


Item = RankBatch | EpochEnd | Stop


def rank_batch(batch: Batch, rank: int) -> RankBatch:
    """A rank's part of the global batch of a step."""
    start = sum(batch.rank_counts[:rank])
    stop = start + batch.rank_counts[rank]
    padding = min(stop - start, max(0, stop - (len(batch.ids) - batch.padding)))
    return RankBatch(
        step=batch.step,
        epoch=batch.epoch,
        progress=batch.progress,
        ids=batch.ids[start:stop],
        keep_probabilities=batch.keep_probabilities[start:stop],
        padding=padding,
    )


@dataclass(slots=True)
class BossPlan:
    """The stream of one rank."""

    rank: int
    prefetch_batches: int
    ready: deque[Item] = field(default_factory=deque)
    pulled: deque[RankBatch] = field(default_factory=deque)
    last_step: int = -1
    """Highest step that has come."""
    last_pulled: int = -1
    last_epoch: int = -1
    """Last epoch whose end has come."""
    last_reported: int = -1
    epochs_done: int = -1
    """Last epoch whose end was pulled."""
    checkpoint_taken: int = -1
    """Highest step of which the broker has said that it keeps a snapshot."""
    progress: float = 0.0
    ended: Literal["", "finished", "stopped", "failed"] = ""
    detail: str = ""

    def go_on_from(self, step: int, epochs_done: int, progress: float) -> None:
        """Stand where a checkpoint was taken: everything up to ``step`` is pulled and reported."""
        self.last_step = self.last_pulled = self.last_reported = step
        self.last_epoch = self.epochs_done = epochs_done
        self.progress = progress

    def receive(self, message: AnyMessage) -> bool:
        """Take an item into the stream; a repeated one changes nothing. Whether there is something new to pull."""
        match message:
            case Batch(step=step) if step > self.last_step:
                self.last_step = step
                self.ready.append(rank_batch(message, self.rank))
                return True
            case EpochEnd(epoch=epoch) if epoch > self.last_epoch:
                self.last_epoch = epoch
                self.ready.append(message)
                return True
            case CheckpointTaken(step=step):
                self.checkpoint_taken = max(self.checkpoint_taken, step)
                return True
            case Stop():
                self.ready.clear()
                self.ready.append(message)
                return True
        return False

    def credit(self) -> Credit:
        """How far the broker may send: the prefetch beyond what the script has pulled."""
        return Credit(limit=self.last_pulled + self.prefetch_batches, yielded=self.last_pulled)

    def pull(self) -> Item | None:
        """The next item; None where nothing is ready. A batch waits for its report from now on."""
        if self.ended:
            return Stop(reason=self.ended, detail=self.detail)
        if not self.ready:
            return None
        item = self.ready.popleft()
        match item:
            case RankBatch():
                self.pulled.append(item)
                self.last_pulled = max(self.last_pulled, item.step)
            case EpochEnd(epoch=epoch, last=last):
                self.epochs_done = epoch
                self.ended = "finished" if last else ""
            case Stop(reason=reason, detail=detail):
                self.ended, self.detail = reason, detail
        return item

    @property
    def is_stopping(self) -> bool:
        """Whether the next item is a Stop."""
        return bool(self.ready) and isinstance(self.ready[0], Stop)

    def put_back(self) -> None:
        """A new iteration begins: what was pulled and never reported comes first again."""
        self.ready.extendleft(reversed(self.pulled))
        self.pulled.clear()

    def reported(self) -> RankBatch:
        """The batch that the next report is about.

        Raises FeedMisuse where no batch waits for one.
        """
        if not self.pulled:
            raise FeedMisuse("report: no batch waits for losses; report each batch of the feed exactly once")
        batch = self.pulled.popleft()
        self.progress = batch.progress
        self.last_reported = batch.step
        return batch
