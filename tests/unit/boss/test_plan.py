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


RUN = RunSettings(prefetch_batches=4, batch_size=8)


def plan(rank: int = 0) -> BossPlan:
    return BossPlan(rank, RUN, n=50)


def drawn(p: BossPlan) -> RankBatch:
    p.draw()
    item = p.pull()
    assert isinstance(item, RankBatch)
    return item


def test_each_rank_takes_its_part_of_the_step() -> None:
    first, second = (rank_batch(batch(1, (3, 2)), rank, RUN) for rank in (0, 1))
    assert first.ids.tolist() == [100, 101, 102] and second.ids.tolist() == [103, 104]
    assert np.concatenate([first.keep_probabilities, second.keep_probabilities]).tolist() == pytest.approx(
        np.linspace(0.1, 1.0, 5).tolist()
    )


def test_padding_belongs_to_the_last_ranks() -> None:
    parts = [rank_batch(batch(0, (1, 1, 1, 1), padding=2), rank, RUN).padding for rank in range(4)]
    assert parts == [0, 0, 1, 1]


def test_a_batch_is_plain_where_nothing_is_to_be_weighed_padded_or_shared_unevenly() -> None:
    """Then, and only then, its mean is that of its losses."""
    even = RunSettings(world_size=2)
    assert [rank_batch(batch(0), rank, even).is_plain for rank in (0, 1)] == [True, True]
    assert not rank_batch(batch(0), 0, RunSettings(world_size=2, weights="on")).is_plain
    assert [rank_batch(batch(0, counts=(2, 2), padding=1), rank, even).is_plain for rank in (0, 1)] == [False, False]
    assert not rank_batch(batch(0, counts=(3, 1)), 0, even).is_plain


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


def fetched_ahead() -> BossPlan:
    """A loader has taken the run's last batch and its end, and the script has neither."""
    p = plan()
    p.receive(batch(0))
    p.receive(EpochEnd(epoch=0, after_step=0, last=True))
    assert isinstance(p.pull(), RankBatch) and isinstance(p.pull(), EpochEnd)
    return p


def test_an_epoch_is_over_once_all_of_it_is_reported_however_far_a_loader_fetches_ahead() -> None:
    p = fetched_ahead()
    assert (p.epochs_done, p.ended) == (-1, "")
    p.reported()
    assert (p.epochs_done, p.ended) == (0, "finished")


def test_what_is_put_back_has_its_ids_again_whatever_the_script_did_with_its_list() -> None:
    p = plan()
    p.receive(batch(0))
    item = p.pull()
    assert isinstance(item, RankBatch)
    whole = item.ids.tolist()
    assert item.id_list == whole
    item.id_list.clear()
    p.put_back()
    again = p.pull()
    assert isinstance(again, RankBatch) and again.id_list == whole


def test_an_epochs_end_that_was_fetched_ahead_comes_again_behind_what_is_put_back() -> None:
    p = fetched_ahead()
    p.put_back()
    assert isinstance(p.pull(), RankBatch) and isinstance(p.pull(), EpochEnd)
    p.reported()
    assert p.ended == "finished"


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
    batches = [drawn(first) for _ in range(3)]
    assert [b.ids.tolist() for b in batches] == [drawn(second).ids.tolist() for _ in range(3)]
    assert batches[0].ids.tolist() != batches[1].ids.tolist()
    for b in batches:
        assert len(set(b.ids.tolist())) == 8 and b.ids.min() >= 0 and b.ids.max() < 50 and b.off_plan
    assert first.credit().limit == 4


def after_off_plan(steps: int) -> BossPlan:
    p = BossPlan(0, RunSettings(prefetch_batches=4, staleness_bound=20), n=50)
    for _ in range(steps):
        drawn(p)
    return p


def test_a_batch_that_off_plan_steps_made_too_stale_is_given_back_untrained() -> None:
    p = after_off_plan(6)
    p.receive(selected(10, learned_through=-5))
    p.receive(selected(11, learned_through=5))
    assert p.to_return == [10]
    assert isinstance(fresh := p.pull(), RankBatch) and fresh.step == 11


def test_what_is_given_back_leaves_room_for_more() -> None:
    p = after_off_plan(6)
    p.receive(batch(9))
    p.receive(selected(10, learned_through=-5))
    p.pull()
    assert (p.credit().limit, p.credit().yielded) == (9 + 4, 9), "the broker knows what was given back"
    p.receive(batch(11))
    p.pull()
    assert p.credit().limit == 11 + 4


def test_a_batch_that_was_cut_after_the_off_plan_steps_is_fresh() -> None:
    p = after_off_plan(30)
    p.receive(selected(40, learned_through=30, off_plan_before=30))
    assert isinstance(p.pull(), RankBatch) and not p.to_return


def test_off_plan_steps_after_a_batch_do_not_make_it_stale() -> None:
    """It was pulled before them, and comes first again: its place in the stream is before theirs."""
    p = after_off_plan(0)
    p.receive(selected(10, learned_through=-5))
    p.pull()
    for _ in range(6):
        drawn(p)
    p.put_back()
    assert isinstance(again := p.pull(), RankBatch) and again.step == 10


def test_the_runs_end_counts_only_once_the_broker_has_cut_again_what_was_given_back() -> None:
    """An end that was on its way while a batch was given back is not the end."""
    p = after_off_plan(6)
    p.receive(selected(10, learned_through=-5))
    assert not p.receive(EpochEnd(epoch=2, after_step=10, last=True))
    assert p.receive(batch(17)) and p.receive(EpochEnd(epoch=2, after_step=17, last=True, returns=1))
    p.pull()
    p.pull()
    while p.pulled:
        p.reported()
    assert p.ended == "finished"


def ranks(count: int) -> list[BossPlan]:
    run = RunSettings(prefetch_batches=4, batch_size=2, world_size=count, staleness_bound=20)
    return [BossPlan(rank, run, n=50) for rank in range(count)]


def share(leader: BossPlan, *others: BossPlan) -> None:
    for item in leader.to_share:
        for other in others:
            other.follow(item)
    leader.to_share.clear()


def test_other_ranks_have_the_stream_of_rank_0_and_nothing_else() -> None:
    leader, other = ranks(2)
    leader.receive(batch(0))
    assert not other.receive(batch(0)), "what the broker says to another rank is no item"
    leader.pull()
    leader.draw()
    leader.receive(selected(1, learned_through=-20))
    leader.receive(EpochEnd(epoch=0, after_step=1))
    share(leader, other)
    mine, theirs = ([p.pull() for _ in range(3)] for p in (leader, other))
    first, drawn_there, end = theirs
    assert isinstance(first, RankBatch) and first.ids.tolist() == [2, 3]
    assert isinstance(drawn_there, RankBatch) and drawn_there.off_plan
    assert isinstance(mine[0], RankBatch) and not set(mine[0].ids.tolist()) & set(drawn_there.ids.tolist())
    assert isinstance(end, EpochEnd) and mine[1] == end
    assert other.off_plan_steps == leader.off_plan_steps == 1 and leader.to_return == [1]


def test_another_rank_draws_nothing_by_itself() -> None:
    leader, other = ranks(2)
    leader.receive(batch(0))
    share(leader, other)
    assert leader.may_draw_locally() and not other.may_draw_locally()


def test_a_stop_comes_behind_what_the_other_ranks_know_of_already() -> None:
    leader, other = ranks(2)
    leader.receive(batch(0))
    assert leader.stop(Stop(reason="stopped")) and not leader.stop(Stop(reason="stopped"))
    leader.receive(batch(1))
    share(leader, other)
    for p in (leader, other):
        assert isinstance(p.pull(), RankBatch) and isinstance(p.pull(), Stop) and p.ended == "stopped"


def test_shares_make_the_average_over_ranks_the_mean_over_all_instances() -> None:
    given = batch(0, (3, 2))
    run = RunSettings(world_size=2, policy="importance")
    losses = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    weights = np.minimum(1 / given.keep_probabilities, run.weight_clip)
    for settings, w in ((RunSettings(world_size=2), np.ones(5)), (run, weights)):
        parts = [rank_batch(given, rank, settings) for rank in range(2)]
        means = [np.average(losses[s], weights=w[s]) for s in (slice(0, 3), slice(3, 5))]
        average = np.mean([part.share * mean for part, mean in zip(parts, means, strict=True)])
        assert average == pytest.approx(np.average(losses, weights=w), rel=1e-6)


def test_deterministic_runs_never_leave_the_plan() -> None:
    p = BossPlan(0, RunSettings(deterministic=True), n=50)
    p.receive(batch(0))
    assert not p.may_draw_locally()
    q = plan()
    assert not q.may_draw_locally()
    q.receive(batch(0))
    assert q.may_draw_locally()
