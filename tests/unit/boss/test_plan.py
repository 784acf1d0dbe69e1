"""The stream of one rank: each item once, in order."""

from __future__ import annotations

import numpy as np
import pytest

from boss.plan import BossPlan, RankBatch, rank_batch
from protocol.errors import FeedMisuse
from protocol.messages import Batch, EpochEnd, Segment, Stop


def batch(step: int, counts: tuple[int, ...] = (2, 2), padding: int = 0) -> Batch:
    ids = np.arange(sum(counts), dtype=np.int64) + 100 * step
    return Batch(
        step=step,
        epoch=0,
        progress=0.1 * step,
        ids=ids,
        keep_probabilities=np.linspace(0.1, 1.0, len(ids)).astype(np.float32),
        rank_counts=list(counts),
        segments=[Segment(count=len(ids), epoch=0, window=0)],
        padding=padding,
    )


def plan(rank: int = 0) -> BossPlan:
    return BossPlan(rank=rank, prefetch_batches=4)


def test_each_rank_takes_its_part_of_the_step() -> None:
    first, second = (rank_batch(batch(1, (3, 2)), rank) for rank in (0, 1))
    assert first.ids.tolist() == [100, 101, 102] and second.ids.tolist() == [103, 104]
    assert np.concatenate([first.keep_probabilities, second.keep_probabilities]).tolist() == pytest.approx(
        np.linspace(0.1, 1.0, 5).tolist()
    )


def test_padding_belongs_to_the_last_ranks() -> None:
    parts = [rank_batch(batch(0, (1, 1, 1, 1), padding=2), rank).padding for rank in range(4)]
    assert parts == [0, 0, 1, 1]


def test_a_repeated_batch_or_epoch_end_changes_nothing() -> None:
    p = plan()
    assert p.receive(batch(0)) and not p.receive(batch(0))
    assert p.receive(EpochEnd(epoch=0, after_step=0)) and not p.receive(EpochEnd(epoch=0, after_step=0))
    assert isinstance(p.pull(), RankBatch) and isinstance(p.pull(), EpochEnd) and p.pull() is None


def test_credit_reaches_the_prefetch_beyond_what_is_pulled() -> None:
    p = plan()
    assert p.credit().limit == 3
    for step in range(3):
        p.receive(batch(step))
    p.pull()
    assert (p.credit().limit, p.credit().yielded) == (4, 0)


def test_what_is_put_back_comes_first_and_gives_no_new_credit() -> None:
    p = plan()
    for step in range(3):
        p.receive(batch(step))
    p.pull()
    p.pull()
    p.reported()
    p.put_back()
    again = p.pull()
    assert isinstance(again, RankBatch) and again.step == 1
    assert p.credit().limit == 5


def test_a_stop_comes_before_all_that_is_ready_and_stays() -> None:
    p = plan()
    p.receive(batch(0))
    p.receive(Stop(reason="stopped"))
    assert isinstance(p.pull(), Stop) and isinstance(p.pull(), Stop)
    assert p.ended == "stopped"


def test_the_last_epoch_end_ends_the_stream() -> None:
    p = plan()
    p.receive(EpochEnd(epoch=0, after_step=-1, last=True))
    assert isinstance(p.pull(), EpochEnd)
    assert p.ended == "finished" and isinstance(p.pull(), Stop)


def test_a_report_without_a_batch_is_a_misuse() -> None:
    with pytest.raises(FeedMisuse):
        plan().reported()
