"""The Boss's side of the plan: one totally ordered stream of items, each exactly once. No I/O, no thread.

A step is a position in this stream. Batches that the script has pulled wait here for their losses, in order; what is
pulled and never reported is yielded again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from protocol.arrays import F32, I64
from protocol.errors import FeedMisuse
from protocol.messages import AnyMessage, Batch, CheckpointTaken, Credit, EpochEnd, Stop
from protocol.settings import RunSettings

OFF_PLAN_STREAM = 2
"""Keeps these numbers apart from those of the epoch order and of the drawing, which use the same seed."""


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What one rank trains in one step."""

    step: int
    epoch: int
    progress: float
    ids: I64
    keep_probabilities: F32
    padding: int = 0
    """Trailing IDs at weight 0."""
    staleness: int | None = None
    """Of the global batch when it was cut, in steps; None where all of it is unfiltered."""
    off_plan_before: int = 0
    """Off-plan steps that the broker knew of when it cut the batch."""
    off_plan: bool = False
    """Drawn here, while no batch came; ``step`` then counts the off-plan steps."""


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
        staleness=max(
            (batch.step - s.learned_through for s in batch.segments if s.learned_through is not None), default=None
        ),
        off_plan_before=batch.off_plan_before,
    )


def draw_locally(settings: RunSettings, n: int, number: int) -> I64:
    """IDs of the off-plan step ``number``: distinct, uniform over all instances, a function of (seed, number)."""
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, number], counter=[0, 0, 0, OFF_PLAN_STREAM]))
    size = min(settings.batch_size, n)
    ids: I64 = np.empty(0, dtype=np.int64)
    while len(ids) < size:
        ids = np.concatenate([ids, rng.integers(0, n, size=2 * size)])
        _, first = np.unique(ids, return_index=True)
        ids = ids[np.sort(first)]
    return ids[:size]


@dataclass(slots=True)
class BossPlan:
    """The stream of one rank."""

    rank: int
    settings: RunSettings
    n: int
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
    off_plan_steps: int = 0
    """Off-plan steps drawn so far."""
    to_return: list[int] = field(default_factory=list)
    """Steps that off-plan steps have made too stale; to be given back untrained."""
    ended: Literal["", "finished", "stopped", "failed"] = ""
    detail: str = ""

    def go_on_from(self, step: int, epochs_done: int, progress: float, off_plan_steps: int) -> None:
        """Stand where a checkpoint was taken: everything up to ``step`` is pulled and reported."""
        self.last_step = self.last_pulled = self.last_reported = step
        self.last_epoch = self.epochs_done = epochs_done
        self.progress = progress
        self.off_plan_steps = off_plan_steps

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
        return Credit(limit=self.last_pulled + self.settings.prefetch_batches, yielded=self.last_pulled)

    def pull(self) -> Item | None:
        """The next item; None where nothing is ready. A batch waits for its report from now on."""
        if self.ended:
            return Stop(reason=self.ended, detail=self.detail)
        while self.ready and self._is_too_stale(self.ready[0]):
            self._give_back()
        if not self.ready:
            return None
        item = self.ready.popleft()
        match item:
            case RankBatch(off_plan=off_plan):
                self.pulled.append(item)
                self.last_pulled = self.last_pulled if off_plan else max(self.last_pulled, item.step)
            case EpochEnd(epoch=epoch, last=last):
                self.epochs_done = epoch
                self.ended = "finished" if last else ""
            case Stop(reason=reason, detail=detail):
                self.ended, self.detail = reason, detail
        return item

    def _is_too_stale(self, item: Item) -> bool:
        if not isinstance(item, RankBatch) or item.staleness is None:
            return False
        since_cut = self.off_plan_steps - item.off_plan_before
        return item.staleness + since_cut > self.settings.staleness_bound

    def _give_back(self) -> None:
        batch = self.ready.popleft()
        assert isinstance(batch, RankBatch)
        self.last_pulled = max(self.last_pulled, batch.step)
        self.to_return.append(batch.step)
        if self.ready and isinstance(end := self.ready[-1], EpochEnd) and end.last:
            self.ready.pop()  # the run does not end there: the broker will cut what is given back, and say so again
            self.last_epoch = end.epoch - 1

    def may_draw_locally(self) -> bool:
        """Whether the run allows a step off the plan: it has begun, is not over, and is not deterministic."""
        return not (self.settings.deterministic or self.ended) and self.last_step >= 0

    def draw(self) -> RankBatch:
        """An off-plan batch; like any other, it waits for its report."""
        ids = draw_locally(self.settings, self.n, self.off_plan_steps)
        batch = RankBatch(
            step=self.off_plan_steps,
            epoch=self.last_epoch + 1,
            progress=self.progress,
            ids=ids,
            keep_probabilities=np.ones(len(ids), dtype=np.float32),
            off_plan=True,
        )
        self.off_plan_steps += 1
        self.pulled.append(batch)
        return batch

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
        self.last_reported = self.last_reported if batch.off_plan else batch.step
        return batch
