"""What each policy keeps, against its formula; and that a policy which knows nothing shrinks nothing."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.drawing import DRAWING_STREAM, Drawing, draw
from assistant.policies import AutoAssist, Moment, Uniform, make_policy
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, N, feed_epochs, record


def test_uniform_keeps_everything() -> None:
    assert (Uniform().keep_probability(np.arange(5), MIDDLE) == 1.0).all()


def test_random_drop_keeps_all_alike_and_everything_in_warmup_and_anneal() -> None:
    policy = make_policy(RunSettings(policy="random-drop", drop_rate=0.4, warmup_epochs=1), 10)
    assert policy.keep_probability(np.arange(3), MIDDLE) == pytest.approx([0.6, 0.6, 0.6])
    assert (policy.keep_probability(np.arange(3), Moment(0, 0.1)) == 1.0).all()
    assert (policy.keep_probability(np.arange(3), Moment(7, 0.9)) == 1.0).all()


def test_where_losses_stay_what_they_were_pi_is_their_clipped_ratio_to_the_running_mean() -> None:
    """π_i = clip(loss of i / T̄, γ, 1); half of the instances lose 0.2, half 1.0, so T̄ is 0.6."""
    losses = np.where(np.arange(N) % 2 == 0, 0.2, 1.0)
    losses[0] = 0.001
    policy = AutoAssist(N, floor=0.1)
    feed_epochs(policy, losses, 2, np.random.default_rng(0), permute=False)
    keep = policy.keep_probability(np.array([0, 2, 1]), MIDDLE)
    assert keep[0] == pytest.approx(0.1)
    assert keep[1] == pytest.approx(0.2 / 0.6, rel=0.1)
    assert keep[2] == 1.0


def test_nothing_is_shrunk_in_the_first_quarter_of_an_epoch_nor_in_the_last_eighth() -> None:
    losses = np.where(np.arange(N) % 2 == 0, 0.1, 1.0)
    policy = make_policy(RunSettings(epochs=2, window_size=8), N)
    feed_epochs(policy, losses, 2, np.random.default_rng(0), permute=False)
    assert (policy.keep_probability(np.arange(100), Moment(0, 0.12)) == 1.0).all()
    assert policy.keep_probability(np.arange(100), Moment(0, 0.13)).mean() < 0.8
    assert (policy.keep_probability(np.arange(100), Moment(9, 0.88)) == 1.0).all()
    assert policy.keep_probability(np.arange(100), MIDDLE).mean() < 0.8


def test_losses_dealt_to_random_instances_shrink_nothing() -> None:
    """Yesterday's losses say nothing about today's: the lift is zero and everything passes."""
    rng = np.random.default_rng(1)
    policy = AutoAssist(N, floor=0.1, features=rng.normal(size=(N, 20)).astype(np.float32))
    feed_epochs(policy, rng.exponential(size=N), 4, rng, permute=True)
    keep = policy.keep_probability(np.arange(N), MIDDLE)
    assert keep.mean() > 0.97


def test_random_features_of_unseen_instances_shrink_nothing() -> None:
    rng = np.random.default_rng(2)
    policy = AutoAssist(2 * N, floor=0.1, features=rng.normal(size=(2 * N, 20)).astype(np.float32))
    feed_epochs(policy, rng.exponential(size=N), 1, rng, permute=False)
    assert (policy.keep_probability(np.arange(N, 2 * N), MIDDLE) == 1.0).all()


def test_telling_features_shrink_the_easy_ones_among_the_unseen() -> None:
    """The learned model stands in where there is no history."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2 * N, 20)).astype(np.float32)
    losses = np.exp(features[:, 0] * 2.0)
    policy = AutoAssist(2 * N, floor=0.1, features=features)
    feed_epochs(policy, losses[:N], 1, rng, permute=False)
    unseen = np.arange(N, 2 * N)
    keep = policy.keep_probability(unseen, MIDDLE)
    easy, hard = features[unseen, 0] < -1.0, features[unseen, 0] > 1.0
    assert keep[easy].mean() < 0.4 and keep[hard].mean() > 0.9


def test_labels_alone_tell_easy_classes_from_hard_ones() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(2 * N) % 4
    losses = np.where(labels == 0, 2.0, 0.1)
    policy = AutoAssist(2 * N, floor=0.1, labels=labels.astype(np.int64))
    feed_epochs(policy, losses[:N], 1, rng, permute=False)
    keep = policy.keep_probability(np.arange(N, 2 * N), MIDDLE)
    assert keep[labels[N:] == 0].mean() > 0.9 > 0.5 > keep[labels[N:] == 1].mean()


def test_a_loss_is_compared_with_the_mean_of_its_own_time() -> None:
    """All losses fall to a tenth while an easy instance waits: it still is, and not as hard as the others are now."""
    losses = np.where(np.arange(N) % 2 == 0, 0.2, 1.0)
    policy = AutoAssist(N, floor=0.1)
    rng = np.random.default_rng(6)
    feed_epochs(policy, losses, 2, rng, permute=False)
    before = policy.keep_probability(np.array([0]), Moment(2, 0.5))[0]
    reports = [ids for _ in range(4) for ids in np.array_split(rng.permutation(np.arange(1, N)), N // 60)]
    for position, ids in enumerate(reports):
        policy.observe(record(position, ids, losses[ids] * 0.1 ** (position / len(reports)), 2 + position // (N // 60)))
    assert policy.keep_probability(np.array([0]), Moment(6, 0.5))[0] == pytest.approx(before, rel=0.3)


def test_what_losses_tell_is_learned_and_not_assumed() -> None:
    """Of two kinds of instances, as easy as each other at last, one was hard the time before: the average knows."""
    rng = np.random.default_rng(7)
    policy = AutoAssist(N, floor=0.1)
    steady, swinging = np.arange(N) % 2 == 0, np.arange(N) % 2 == 1
    for epoch in range(6):
        losses = np.where(steady, 0.2, 1.8 if epoch % 2 == 0 else 0.2) * np.exp(0.1 * rng.normal(size=N))
        order = rng.permutation(N)
        for position, ids in enumerate(np.array_split(order, N // 60)):
            policy.observe(record(position, ids, losses[ids], epoch, np.ones(len(ids))))
    keep = policy.keep_probability(np.arange(N), Moment(6, 0.5))
    assert keep[swinging].mean() > 2 * keep[steady].mean()


def test_the_estimates_undo_the_selection() -> None:
    """Easy instances are reported at π = 0.2 only; the running mean still speaks for all."""
    rng = np.random.default_rng(5)
    losses = np.where(np.arange(N) % 2 == 0, 0.2, 1.0)
    pi = np.where(np.arange(N) % 2 == 0, 0.2, 1.0)
    policy = AutoAssist(N, floor=0.1)
    for position in range(400):
        ids = rng.choice(N, size=64, replace=False)
        ids = ids[rng.random(64) < pi[ids]]
        policy.observe(record(position, ids, losses[ids], 0, pi[ids]))
    assert policy.mean.value == pytest.approx(0.6, rel=0.08)


def test_the_same_window_draws_the_same_and_another_draws_anew() -> None:
    keep = np.full(1000, 0.5, dtype=np.float32)
    assert (draw(1, 7, keep) == draw(1, 7, keep)).all()
    assert (draw(1, 7, keep) != draw(1, 8, keep)).any()
    assert (draw(1, 7, keep) != draw(2, 7, keep)).any()
    assert draw(1, 7, np.ones(1000, dtype=np.float32)).all()


def test_a_run_s_drawing_draws_the_same_whatever_it_drew_before() -> None:
    drawing = Drawing(1)
    for window, count in ((9, 77), (2**40, 1000), (7, 1000), (7, 1000)):
        keep = np.full(count, 0.5, dtype=np.float32)
        fresh = np.random.Generator(np.random.Philox(key=[1, window], counter=[0, 0, 0, DRAWING_STREAM]))
        assert (drawing(window, keep) == (fresh.random(count, dtype=np.float32) < keep)).all()


def test_the_drawing_keeps_the_share_that_it_is_asked_for() -> None:
    kept = np.concatenate([draw(3, window, np.full(500, 0.3, dtype=np.float32)) for window in range(100)])
    assert kept.mean() == pytest.approx(0.3, abs=0.01)


def test_one_report_of_huge_losses_is_forgotten() -> None:
    """Their sum is beyond float32, each of them within it."""
    policy = AutoAssist(N, floor=0.1)
    rng = np.random.default_rng(8)
    losses = np.where(np.arange(N) % 2 == 0, 0.1, 1.0)
    policy.observe(record(0, np.arange(2), np.full(2, 2e38), 0))
    feed_epochs(policy, losses, 60, rng, permute=False)
    assert all(np.isfinite(values).all() for values in policy.state_dict().values())
    assert policy.keep_probability(np.arange(100), MIDDLE).mean() < 0.8


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e28, -1e28, 1e-30])
@pytest.mark.parametrize("gate", [True, False])
def test_losses_without_a_positive_mean_shrink_nothing_and_leave_no_nan(scale: float, gate: bool) -> None:
    policy = AutoAssist(N, floor=0.1, gate=gate)
    rng = np.random.default_rng(9)
    feed_epochs(
        policy, scale * (1.0 + rng.random(N)) if scale < 1.0 else scale * rng.normal(size=N), 2, rng, permute=True
    )
    keep = policy.keep_probability(np.arange(N), MIDDLE)
    assert np.isfinite(keep).all()
    assert (keep == 1.0).all() or scale == 1e28
    assert all(np.isfinite(values).all() for values in policy.state_dict().values())


def test_the_state_of_another_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="another data set"):
        AutoAssist(N, floor=0.1).load_state_dict(AutoAssist(1, floor=0.1).state_dict())
