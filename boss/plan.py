"""The Boss's side of the plan: one totally ordered stream of items, each exactly once. No I/O, no thread.

A step is a position in this stream. Rank 0 makes it, of what the broker sends and of what it draws by itself; the
other ranks are told of each item as it becomes part of the stream, and decide nothing. Batches that the script has
pulled wait here for their losses, in order; what is pulled and never reported is yielded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from boss.weights import instance_weights
from protocol.arrays import F32, I64
from protocol.errors import FeedMisuse, PeerRefused
from protocol.messages import AnyMessage, Batch, CheckpointTaken, Credit, EpochEnd, Lengths, Stop, Welcome
from protocol.off_plan import draw_off_plan
from protocol.settings import RunSettings
from protocol.token_batches import CHUNK, I32


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
    off_plan: bool = False
    """Drawn by rank 0, while no batch came; ``step`` then counts the off-plan steps."""
    instances: int = 0
    """Of the step, all ranks', padding left out."""
    staleness: int | None = None
    """Of the global batch; None where it was unfiltered."""
    share: float = 1.0
    """Weight of this rank's instances in the step, relative to an equal share: what makes an average over the ranks of
    their means the mean over all instances."""
    is_plain: bool = False
    """Whether each of its instances weighs the same, and as much as any other rank's."""
    id_list: list[int] = field(default_factory=list)
    """``ids`` for the script, made where the batch arrives so that the training thread need not."""


Item = RankBatch | EpochEnd | Stop
Shared = Batch | EpochEnd | Stop
"""What the ranks are told."""


def rank_batch(batch: Batch, rank: int, settings: RunSettings) -> RankBatch:
    """A rank's part of the global batch of a step."""
    start = sum(batch.rank_counts[:rank])
    stop = start + batch.rank_counts[rank]
    real = len(batch.ids) - batch.padding
    padding = min(stop - start, max(0, stop - real))
    share = _share(batch.keep_probabilities[:real], start, stop, len(batch.rank_counts), settings)
    return RankBatch(
        step=batch.step,
        epoch=batch.epoch,
        progress=batch.progress,
        ids=batch.ids[start:stop],
        keep_probabilities=batch.keep_probabilities[start:stop],
        padding=padding,
        off_plan=batch.kind == "off_plan",
        instances=real,
        staleness=staleness_of(batch),
        share=share,
        is_plain=not (padding or settings.weighs) and share == 1.0,
        id_list=batch.ids[start:stop].tolist(),
    )


def _share(keep_probabilities: F32, start: int, stop: int, ranks: int, settings: RunSettings) -> float:
    if ranks == 1:
        return 1.0
    weights = instance_weights(keep_probabilities, settings)
    if weights is None:
        weights = np.ones(len(keep_probabilities), dtype=np.float32)
    return ranks * float(weights[start:stop].sum()) / float(weights.sum())


def staleness_of(batch: Batch) -> int | None:
    """Of a batch when it was cut, in steps; None where all of it is unfiltered."""
    return max((batch.step - s.learned_through for s in batch.segments if s.learned_through is not None), default=None)


@dataclass(slots=True)
class BossPlan:
    """The stream, as one rank sees it."""

    rank: int
    settings: RunSettings
    n: int
    lengths: I32 | None = None
    """Tokens of each instance, where batches are cut by them."""
    ready: deque[Item] = field(default_factory=deque)
    pulled: deque[RankBatch] = field(default_factory=deque)
    to_share: deque[Shared] = field(default_factory=deque)
    """Rank 0: items of the stream that the other ranks have not been told of."""
    last_step: int = -1
    """Highest step that has come."""
    last_pulled: int = -1
    last_epoch: int = -1
    """Last epoch whose end has come."""
    last_reported: int = -1
    epochs_done: int = -1
    """Last epoch whose end was pulled, and all before it reported."""
    checkpoint_taken: int = -1
    """Highest step of which the broker has said that it keeps a snapshot."""
    progress: float = 0.0
    off_plan_steps: int = 0
    """Off-plan steps drawn so far."""
    off_plan_reported: int = 0
    """Off-plan steps reported so far."""
    to_return: list[int] = field(default_factory=list)
    """Steps that off-plan steps have made too stale; to be given back untrained."""
    returned: int = 0
    """Steps given back so far, by this process."""
    ended: Literal["", "finished", "stopped", "failed"] = ""
    detail: str = ""
    is_closed: bool = False
    """Whether the stream has its last item."""
    _end_ahead: EpochEnd | None = None
    """An epoch's end that was pulled while batches before it wait for their losses: a loader fetches ahead."""

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Stand where a checkpoint was taken, ``state`` as ``Feed.state_dict`` gives it: everything up to its step is
        pulled and reported."""
        self.last_step = self.last_pulled = self.last_reported = state["step"]
        self.last_epoch = self.epochs_done = state["epochs_done"]
        self.progress = state["progress"]
        self.off_plan_steps = self.off_plan_reported = state["off_plan_steps"]

    def receive(self, message: AnyMessage) -> bool:
        """Take what the broker says; a repeated item changes nothing. Whether there is something new.

        Only rank 0 makes items of it.
        """
        match message:
            case CheckpointTaken(step=step):
                self.checkpoint_taken = max(self.checkpoint_taken, step)
                return True
            case Batch(step=step) if self.rank == 0 and step > self.last_step:
                self.last_step = step
                if self._is_too_stale(message):
                    self._give_back(step)
                else:
                    self._append(message)
                return True
            case EpochEnd(epoch=epoch, last=last, returns=returns) if self.rank == 0 and epoch > self.last_epoch:
                if last and returns < self.returned:
                    return False  # the broker will cut what is given back, and say the end again
                self.last_epoch = epoch
                self._append(message)
                return True
            case Stop() if self.rank == 0:
                return self.stop(message)
        return False

    def stop(self, message: Stop) -> bool:
        """End the stream: at once where this is the only rank, else behind what all ranks are told of already.

        Whether it had no end before.
        """
        if self.is_closed and self.settings.world_size > 1:
            return False
        if self.settings.world_size == 1:
            self.ready.clear()
        self._append(message)
        return True

    def follow(self, message: Shared) -> None:
        """Another rank than 0: the next item of the stream."""
        match message:
            case Batch(kind="off_plan"):
                self.off_plan_steps += 1
            case Batch(step=step):
                self.last_step = step
            case EpochEnd(epoch=epoch):
                self.last_epoch = epoch
        self._append(message)

    def _append(self, message: Shared) -> None:
        if self.is_closed and self.settings.world_size > 1:
            return
        self.ready.append(rank_batch(message, self.rank, self.settings) if isinstance(message, Batch) else message)
        self.is_closed = isinstance(message, Stop) or (isinstance(message, EpochEnd) and message.last)
        if self.rank == 0 and self.settings.world_size > 1:
            self.to_share.append(message)

    def lengths_for(self, broker: Welcome) -> Iterator[Lengths]:
        """The lengths that a broker lacks; rank 0 tells it. Raises PeerRefused where it does not know what they are."""
        if self.lengths is not None and broker.settings.max_tokens is None:
            raise PeerRefused("the broker is of an earlier version, without --max-tokens; install the same everywhere")
        if self.lengths is not None and self.rank == 0:
            for first in range(broker.lengths, self.n, CHUNK):
                yield Lengths(start=first, values=self.lengths[first : first + CHUNK].astype(np.int64))

    def credit(self) -> Credit:
        """How far the broker may send: the prefetch beyond what the script has pulled. Numbers of steps off the plan,
        and of what was given back, are not counted; the broker knows them."""
        pulled = self.last_pulled  # once: the training thread goes on
        return Credit(limit=pulled + self.settings.prefetch_batches, yielded=pulled)

    def pull(self) -> Item | None:
        """The next item; None where nothing is ready. A batch waits for its report from now on."""
        if self.ended:
            return Stop(reason=self.ended, detail=self.detail)
        try:
            item = self.ready.popleft()
        except IndexError:  # asked before, it might be cleared in between
            return None
        match item:
            case RankBatch():
                self.pulled.append(item)
                if not item.off_plan and item.step > self.last_pulled:
                    self.last_pulled = item.step
            case EpochEnd() if self.pulled:
                self._end_ahead = item
            case EpochEnd():
                self._pass(item)
            case Stop(reason=reason, detail=detail):
                self.ended, self.detail = reason, detail
        return item

    def _pass(self, end: EpochEnd) -> None:
        self.epochs_done = end.epoch
        self.ended = "finished" if end.last else self.ended
        self._end_ahead = None

    def _is_too_stale(self, batch: Batch) -> bool:
        """With the off-plan steps before it of which the broker did not know; those after it cannot be drawn before
        it is pulled."""
        staleness = staleness_of(batch)
        if staleness is None:
            return False
        return staleness + self.off_plan_steps - batch.off_plan_before > self.settings.staleness_bound

    def _give_back(self, step: int) -> None:
        self.to_return.append(step)
        self.returned += 1

    def may_draw_locally(self) -> bool:
        """Whether a step off the plan may be made here: by rank 0, in a run that has begun, is not over, and is not
        deterministic."""
        is_over = self.ended or self.is_closed
        return self.rank == 0 and not (self.settings.deterministic or is_over) and self.last_step >= 0

    def draw(self) -> None:
        """Put an off-plan batch into the stream."""
        ids, rank_counts = draw_off_plan(self.settings, self.n, self.off_plan_steps, self.lengths)
        batch = Batch(
            step=self.off_plan_steps,
            epoch=self.last_epoch + 1,
            progress=self.progress,
            ids=ids,
            keep_probabilities=np.ones(len(ids), dtype=np.float32),
            rank_counts=rank_counts,
            segments=[],
            kind="off_plan",
        )
        self.off_plan_steps += 1
        self._append(batch)

    def put_back(self) -> None:
        """A new iteration begins: what was pulled and never reported comes first again."""
        if self._end_ahead is not None:
            self.ready.appendleft(self._end_ahead)
            self._end_ahead = None
        # Lists anew: the script had those, and may have changed them.
        again = [replace(batch, id_list=batch.ids.tolist()) for batch in self.pulled]
        self.ready.extendleft(reversed(again))
        self.pulled.clear()

    def _why_nothing_waits(self) -> str:
        if self.last_pulled < 0 and not self.off_plan_steps:
            return "no batch of the feed was taken yet; take them from feed.loader(train_set), not from another loader"
        return "no batch waits for losses; report each batch of the feed exactly once"

    def reported(self) -> RankBatch:
        """The batch that the next report is about.

        Raises FeedMisuse where no batch waits for one.
        """
        if not self.pulled:
            raise FeedMisuse(f"report: {self._why_nothing_waits()}")
        batch = self.pulled.popleft()
        self.progress = batch.progress
        if batch.off_plan:
            self.off_plan_reported = batch.step + 1
        else:
            self.last_reported = batch.step
        if self._end_ahead is not None and not self.pulled:
            self._pass(self._end_ahead)
        return batch
