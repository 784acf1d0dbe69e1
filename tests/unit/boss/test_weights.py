"""The mean that the Boss trains on: weighed by 1/π, clipped, normalised; without padding and what is not finite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from boss.feed import Feed
from boss.plan import RankBatch
from boss.weights import mean_loss
from protocol.settings import RunSettings
from tests.harness.local_broker import local_broker

ON, OFF = RunSettings(weights="on"), RunSettings(weights="off")


def batch(*keep: float, padding: int = 0) -> RankBatch:
    """A batch of these keep probabilities."""
    ids = np.arange(len(keep), dtype=np.int64)
    return RankBatch(0, 0, 0.5, ids, np.array(keep, dtype=np.float32), padding)


def test_each_loss_weighs_the_inverse_of_its_keep_probability() -> None:
    """Weights 1, 2, 4: (3 + 2·2 + 4·1) / 7."""
    found = mean_loss(torch.tensor([3.0, 2.0, 1.0]), batch(1.0, 0.5, 0.25), ON)
    assert found.item() == pytest.approx(11 / 7)


def test_infobatch_weighs_survivors_by_what_was_thinned() -> None:
    found = mean_loss(torch.tensor([3.0, 1.0]), batch(1.0, 0.5), RunSettings(policy="infobatch"))
    assert found.item() == pytest.approx((3.0 + 2 * 1.0) / 3)


def test_a_weight_is_clipped() -> None:
    settings = RunSettings(weights="on", weight_clip=3.0)
    found = mean_loss(torch.tensor([3.0, 1.0]), batch(1.0, 0.1), settings)
    assert found.item() == pytest.approx((3.0 + 3 * 1.0) / 4)


def test_the_gradient_carries_the_weights_and_they_have_mean_one() -> None:
    losses = torch.tensor([3.0, 2.0, 1.0], requires_grad=True)
    mean_loss(losses, batch(1.0, 0.5, 0.25), ON).backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None
    assert (3 * losses.grad).tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7])
    assert losses.grad.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("settings", [ON, OFF])
def test_padding_weighs_nothing(settings: RunSettings) -> None:
    found = mean_loss(torch.tensor([2.0, 2.0, 50.0]), batch(1.0, 0.5, 0.1, padding=1), settings)
    assert found.item() == pytest.approx(2.0)


@pytest.mark.parametrize("settings", [ON, OFF])
def test_a_rank_that_has_padding_alone_has_the_mean_zero(settings: RunSettings) -> None:
    """The last step of a run may have fewer instances than there are ranks."""
    losses = torch.tensor([2.0], requires_grad=True)
    found = mean_loss(losses, batch(0.5, padding=1), settings)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == 0.0 and losses.grad is not None and losses.grad.item() == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_weighs_nothing_and_leaves_the_gradient_clean(bad: float) -> None:
    scale = torch.ones(3, requires_grad=True)
    found = mean_loss(scale * torch.tensor([3.0, bad, 1.0]), batch(1.0, 0.5, 0.25), ON)
    assert found.item() == pytest.approx((3.0 + 4 * 1.0) / 5)
    mean_loss(torch.stack([scale[0] * 3.0, torch.tensor(bad), scale[2]]), batch(1.0, 0.5, 0.25), ON).backward()  # type: ignore[no-untyped-call]
    assert scale.grad is not None and torch.isfinite(scale.grad).all()


def test_a_batch_without_a_finite_loss_has_the_mean_zero() -> None:
    assert mean_loss(torch.full((2,), float("nan")), batch(1.0, 0.5), ON).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 37, 128, 5000])
def test_where_all_weigh_the_same_the_gradient_is_that_of_the_plain_mean_to_the_bit(
    count: int, dtype: torch.dtype
) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    losses, plain = values.clone().requires_grad_(), values.clone().requires_grad_()
    found = mean_loss(losses, batch(*[0.5] * count), ON)
    (1024 * found).backward()  # type: ignore[no-untyped-call]
    (1024 * plain.mean()).backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None and plain.grad is not None and torch.equal(losses.grad, plain.grad)
    assert found.dtype == dtype and found.item() == pytest.approx(plain.mean().item(), rel=1e-6)


def test_without_weights_it_is_the_plain_mean_whatever_the_keep_probabilities() -> None:
    losses = torch.rand(37, generator=torch.Generator().manual_seed(1))
    assert mean_loss(losses, batch(*np.linspace(0.1, 1.0, 37)), OFF).item() == pytest.approx(losses.mean().item())


def test_under_autocast_the_mean_stays_precise() -> None:
    losses = torch.full((128,), 1.001)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_loss(losses, batch(*[1.0] * 128), OFF)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(1.001)


def test_a_mean_that_was_first_taken_in_inference_mode_can_be_trained_on_later() -> None:
    losses, whole = torch.rand(91, requires_grad=True), batch(*[1.0] * 91)
    with torch.inference_mode():
        mean_loss(losses.detach(), whole, OFF)
    mean_loss(losses * 2.0, whole, OFF).backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None


def test_the_weighed_mean_of_the_kept_is_that_of_all_in_expectation() -> None:
    """Selection by loss alone makes the mean far too high; the weights bring it back."""
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=400)
    keep = np.clip(losses / 2, 0.1, 1.0)
    plain, weighed = [], []
    for _ in range(400):
        kept = rng.random(400) < keep
        values, one = torch.tensor(losses[kept]), batch(*keep[kept])
        plain.append(mean_loss(values, one, OFF).item())
        weighed.append(mean_loss(values, one, ON).item())
    assert np.mean(plain) > 1.3 * losses.mean()
    assert np.mean(weighed) == pytest.approx(losses.mean(), rel=0.01)


def test_a_report_returns_the_weighed_mean(tmp_path: Path) -> None:
    with (
        local_broker(tmp_path) as address,
        Feed.connect(address, n=64, batch_size=4, epochs=1, policy="uniform", weights="on") as feed,
    ):
        next(iter(feed))
        pulled = feed._plan.pulled
        pulled[0] = dataclasses.replace(pulled[0], keep_probabilities=np.array([1, 0.5, 0.25, 1], dtype=np.float32))
        assert feed.report(torch.tensor([3.0, 2.0, 1.0, 0.0])).item() == pytest.approx(11 / 8)
