"""The stream of one rank: each item once, in order."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from boss.plan import BossPlan, RankBatch, rank_batch
from protocol.errors import FeedMisuse
from protocol.messages import Batch, EpochEnd, Segment, Stop
from protocol.settings import RunSettings


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
    return BossPlan(rank, RunSettings(prefetch_batches=4, batch_size=8), n=50)


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


def selected(step: int, learned_through: int, off_plan_before: int = 0) -> Batch:
    """A batch whose selection knew of the steps up to ``learned_through``."""
    segment = Segment(count=4, epoch=0, window=0, assistant="a", learned_through=learned_through)
    return msgspec.structs.replace(batch(step), segments=[segment], off_plan_before=off_plan_before)


def test_off_plan_steps_are_drawn_from_the_seed_and_give_no_credit() -> None:
    first, second = plan(), plan()
    for p in (first, second):
        p.receive(batch(0))
        p.pull()
    drawn = [first.draw() for _ in range(3)]
    assert [b.ids.tolist() for b in drawn] == [second.draw().ids.tolist() for _ in range(3)]
    assert drawn[0].ids.tolist() != drawn[1].ids.tolist()
    for b in drawn:
        assert len(set(b.ids.tolist())) == 8 and b.ids.min() >= 0 and b.ids.max() < 50 and b.off_plan
    assert first.credit().limit == 4


def test_a_batch_that_off_plan_steps_made_too_stale_is_given_back_untrained() -> None:
    p = BossPlan(0, RunSettings(prefetch_batches=4, staleness_bound=20), n=50)
    p.receive(selected(10, learned_through=-5))
    p.receive(selected(11, learned_through=5))
    for _ in range(6):
        p.draw()
    assert isinstance(fresh := p.pull(), RankBatch) and fresh.step == 11
    assert p.to_return == [10]
    assert p.last_pulled == 11


def test_a_batch_that_was_cut_after_the_off_plan_steps_is_fresh() -> None:
    p = BossPlan(0, RunSettings(prefetch_batches=4, staleness_bound=20), n=50)
    for _ in range(30):
        p.draw()
    p.receive(selected(40, learned_through=30, off_plan_before=30))
    assert isinstance(p.pull(), RankBatch) and not p.to_return


def test_giving_back_near_the_end_takes_the_end_back_too() -> None:
    """The broker cuts what is given back once more, and says the end again."""
    p = BossPlan(0, RunSettings(prefetch_batches=4, staleness_bound=20), n=50)
    p.receive(selected(10, learned_through=-5))
    p.receive(EpochEnd(epoch=2, after_step=10, last=True))
    for _ in range(6):
        p.draw()
    assert p.pull() is None and not p.ended
    assert p.receive(batch(17)) and p.receive(EpochEnd(epoch=2, after_step=17, last=True))


def test_deterministic_runs_never_leave_the_plan() -> None:
    p = BossPlan(0, RunSettings(deterministic=True), n=50)
    p.receive(batch(0))
    assert not p.may_draw_locally()
    q = plan()
    assert not q.may_draw_locally()
    q.receive(batch(0))
    assert q.may_draw_locally()
