"""A script with a budget of tokens: what it gives, what it gets, and what it trains on."""

from __future__ import annotations

import atexit
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boss import weights
from boss.feed import Feed
from boss.line import LocalSettings
from boss.plan import BossPlan, RankBatch, rank_batch
from boss.weights import mean_loss
from broker.kept_lengths import LENGTHS_FILE
from protocol.errors import FeedMisuse, PeerRefused, SettingError
from protocol.messages import Batch, Welcome
from protocol.report import read_report
from protocol.settings import RunSettings

N, BUDGET = 400, 256
LENGTHS = np.clip(np.rint(np.random.default_rng(0).lognormal(3.0, 0.6, N)), 1, BUDGET).astype(np.int64)


class Numbers(torch.utils.data.Dataset[Tensor]):
    """Instance i is i."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor(i)


def connect(address: str, **changes: Any) -> Feed:
    waits = LocalSettings(on_broker_loss="wait")  # on a busy machine it would draw batches of its own
    wanted: dict[str, Any] = {"max_tokens": BUDGET, "epochs": 2, "policy": "uniform", "lengths": LENGTHS, **changes}
    return Feed.connect(address, dataset=Numbers(), local=waits, **wanted)


def test_batches_keep_to_the_budget_and_each_epoch_has_each_instance_once(address: str, tmp_path: Path) -> None:
    with connect(address) as feed:
        steps, progress = 0, []
        for _ in range(2):
            seen: list[int] = []
            for ids in feed.loader(Numbers()):
                assert len(ids) * LENGTHS[ids.numpy()].max() <= BUDGET
                progress.append(feed.progress)
                feed.report(torch.ones(len(ids)), torch.from_numpy(LENGTHS[ids.numpy()]))
                seen += ids.tolist()
                steps += 1
            assert sorted(seen) == list(range(N)), "nothing of an epoch is left to the next one"
        assert feed.ended == "finished" and progress == sorted(progress) and progress[-1] == 1.0
        assert 0.9 * steps / 2 < len(feed) < 1.2 * steps / 2, "about as many steps as an epoch has"
        assert feed.settings.batch_size == BUDGET * N // LENGTHS.sum()
    report = read_report(tmp_path)
    assert report.tokens is not None and report.tokens.tokens == 2 * LENGTHS.sum()
    assert np.array_equal(np.load(tmp_path / LENGTHS_FILE), LENGTHS)


def test_a_resumed_run_goes_on_with_the_very_batches_that_would_have_come(address: str) -> None:
    """In the midst of a pool; the broker has the lengths already."""
    feed = connect(address)
    batches = iter(feed)
    for _ in range(7):
        feed.report(torch.ones(len(next(batches))))
    assert feed.cut()
    state, expected = feed.state_dict(), []
    for _ in range(5):
        expected.append(next(batches))
        feed.report(torch.ones(len(expected[-1])))
    atexit.unregister(feed._close_at_exit)  # as if its process were gone
    feed._line.leave()
    with connect(address, state=state) as again:
        batches = iter(again)
        assert [next(batches) for _ in range(5)] == expected
        assert again._line.welcome is not None and again._line.welcome.lengths == N
        again.close("stopped")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no lengths": ({"lengths": None}, "max_tokens=256: needs the length of each instance"),
    "no budget": ({"max_tokens": None}, "lengths=of 400 instances: are for batches by tokens; give max_tokens"),
    "too few": ({"lengths": LENGTHS[1:]}, "lengths: int64 of shape (399,); give a whole number for each of 400"),
    "one too long": ({"max_tokens": 60}, "tokens long; raise --max-tokens to that, or cut or leave out"),
}


@pytest.mark.parametrize(("changes", "says"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_is_refused_before_anything_is_connected(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError) as refused:
        connect("tcp://127.0.0.1:9", **changes)
    assert says in str(refused.value)


# What is trained on


def gradient_of(losses: list[float], counts: list[int], batch: RankBatch, settings: RunSettings) -> list[float]:
    """By instance."""
    given = torch.tensor(losses, requires_grad=True)
    mean_loss(given, batch, settings, torch.tensor(counts)).backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    return [float(value) for value in given.grad]


def batch_of(keep: list[float], rank_counts: list[int], padding: int = 0) -> Batch:
    return Batch(
        step=0,
        epoch=0,
        progress=0.0,
        ids=np.arange(len(keep)),
        keep_probabilities=np.array(keep, np.float32),
        rank_counts=rank_counts,
        segments=[],
        padding=padding,
    )


def test_with_counts_each_token_of_the_step_weighs_the_same() -> None:
    run = RunSettings()
    batch = rank_batch(batch_of([1.0, 1.0, 1.0], [3]), 0, run)
    assert gradient_of([2.0, 3.0, 4.0], [1, 3, 4], batch, run) == [0.125, 0.375, 0.5]
    loss = mean_loss(torch.tensor([2.0, 3.0, 4.0]), batch, run, torch.tensor([1, 3, 4]))
    assert float(loss) == pytest.approx((2 * 1 + 3 * 3 + 4 * 4) / 8)


def test_with_counts_what_is_not_finite_and_what_is_padding_has_no_token() -> None:
    run = RunSettings()
    batch = rank_batch(batch_of([1.0, 1.0, 1.0, 1.0], [4], padding=1), 0, run)
    assert gradient_of([2.0, float("nan"), 4.0, 9.0], [1, 3, 3, 5], batch, run) == [0.25, 0.0, 0.75, 0.0]


def test_with_counts_the_weights_of_the_policy_count_too() -> None:
    run = RunSettings(weights="on")
    batch = rank_batch(batch_of([0.5, 1.0], [2]), 0, run)
    assert gradient_of([1.0, 1.0], [3, 2], batch, run) == [0.75, 0.25]


def test_averaged_over_the_ranks_it_is_the_mean_over_the_tokens_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As DDP averages gradients. Two ranks with 8 and 2 tokens; a rank's own mean would weigh the two alike."""
    run = RunSettings(world_size=2)
    monkeypatch.setattr(weights.dist, "all_reduce", lambda total: total.fill_(10.0))
    whole = batch_of([1.0] * 5, [3, 2])
    first = gradient_of([1.0] * 3, [1, 3, 4], rank_batch(whole, 0, run), run)
    second = gradient_of([1.0] * 2, [1, 1], rank_batch(whole, 1, run), run)
    assert [value / 2 for value in first + second] == pytest.approx([0.1, 0.3, 0.4, 0.1, 0.1])


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        (torch.ones(3), r"counts have shape \(3,\), losses \(4,\); give the number of tokens of each instance"),
        (4, "counts=4: must be a tensor of each instance's tokens"),
    ],
)
def test_counts_that_are_not_one_for_each_loss_are_explained(address: str, counts: Any, says: str) -> None:
    lengths = np.full(N, BUDGET // 4)
    with connect(address, lengths=lengths) as feed:
        next(iter(feed))
        with pytest.raises(FeedMisuse, match=says):
            feed.report(torch.ones(4), counts)
        feed.close("stopped")


# Off the plan


def test_a_boss_alone_draws_batches_within_the_budget() -> None:
    run = RunSettings(max_tokens=BUDGET, batch_size=12)
    lengths = LENGTHS.astype(np.int32)
    plan = BossPlan(0, run, N, lengths, last_step=0)
    for _ in range(5):
        plan.draw()
        item = plan.pull()
        assert isinstance(item, RankBatch) and item.off_plan
        assert len(item.ids) * lengths[item.ids].max() <= BUDGET


# The lengths on their way


def test_rank_0_tells_a_broker_the_lengths_that_it_lacks_and_nobody_one_that_knows_none() -> None:
    run = RunSettings(max_tokens=BUDGET, batch_size=12)
    plan = BossPlan(0, run, N, LENGTHS.astype(np.int32))
    welcome = Welcome(run_id="r", stream="s", settings=run)
    (whole,) = plan.lengths_for(welcome)
    assert (whole.start, whole.values.tolist()) == (0, LENGTHS.tolist())
    (rest,) = plan.lengths_for(Welcome(run_id="r", stream="s", settings=run, lengths=150))
    assert (rest.start, rest.values.tolist()) == (150, LENGTHS[150:].tolist())
    assert not list(plan.lengths_for(Welcome(run_id="r", stream="s", settings=run, lengths=N)))
    assert not list(replace(plan, rank=1).lengths_for(welcome))
    with pytest.raises(PeerRefused, match="earlier version"):
        list(plan.lengths_for(Welcome(run_id="r", stream="s", settings=RunSettings())))
