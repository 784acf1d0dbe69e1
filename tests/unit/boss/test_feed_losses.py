"""Losses of other kinds than one number per instance, and steps of other kinds than one per batch: docs/SCRIPTS.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boss.feed import Feed
from boss.line import LocalSettings
from broker.store import RunStore
from protocol.errors import FeedMisuse
from tests.harness.local_broker import local_broker

N, BATCH, TOKENS = 64, 16, 5


class Sentences(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Sentence i: its token j loses i + j, and has i % 6 tokens; the rest is padding."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return i + torch.arange(float(TOKENS)), (torch.arange(TOKENS) < i % 6).float()


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    with local_broker(tmp_path) as address:
        waits = LocalSettings(on_broker_loss="wait")  # on a busy machine it would draw batches of its own
        settings = {"batch_size": BATCH, "epochs": 1, "policy": "uniform"}
        with Feed.connect(address, dataset=Sentences(), local=waits, **settings) as found:
            yield found


def known(feed: Feed, run_dir: Path) -> list[float]:
    """What Assistants learn of each instance, in order, once all is reported."""
    assert feed.close()
    store = RunStore(run_dir, writable=False)
    losses = {int(i): float(x) for r in store.loss_records() for i, x in zip(r.ids, r.losses, strict=True)}
    store.close()
    return [losses[i] for i in range(N)]


def weight() -> Tensor:
    return torch.ones((), requires_grad=True)


def gradient(of: Tensor, w: Tensor) -> float:
    w.grad = None
    of.backward()
    assert w.grad is not None
    return float(w.grad)


def test_losses_per_token_count_per_instance_whatever_its_length(feed: Feed, tmp_path: Path) -> None:
    """The mean over its own tokens is what is known of it; one that has none is no sign of a broken network."""
    w = weight()
    for tokens, mask in feed.loader(Sentences()):
        means = (tokens * w * mask).sum(1) / mask.sum(1).clamp(min=1)
        assert gradient(feed.report(means), w) == pytest.approx(means.mean().item()), "each instance counts the same"
    expected = [i + (i % 6 - 1) / 2 if i % 6 else 0.0 for i in range(N)]
    assert known(feed, tmp_path) == pytest.approx(expected)
    assert feed.figures()["values_not_finite"] == 0


def test_what_is_trained_may_be_another_loss_than_what_is_reported(feed: Feed, tmp_path: Path) -> None:
    """Each token counts the same in the gradient, each instance in what is known."""
    w = weight()
    for tokens, mask in feed.loader(Sentences()):
        feed.report(((tokens * mask).sum(1) / mask.sum(1).clamp(min=1)).detach())
        loss = (tokens * w * mask).sum() / mask.sum()
        assert gradient(loss, w) == pytest.approx(((tokens * mask).sum() / mask.sum()).item())
    assert known(feed, tmp_path)[61] == 61.0


def test_of_several_losses_a_sum_or_one_of_them_is_reported(feed: Feed, tmp_path: Path) -> None:
    w = weight()
    for tokens, _ in feed.loader(Sentences()):
        first, second = tokens[:, 0] * w, tokens[:, 1] * w
        loss = feed.report(first) + 0.1 * second.mean()
        assert gradient(loss, w) == pytest.approx((first + 0.1 * second).mean().item())
    assert known(feed, tmp_path) == [float(i) for i in range(N)]


MISTAKES = {
    "a mean": (torch.tensor(0.5), r'shape \(\), expected \(16,\).* reduction="none"'),
    "a number": (0.5, r"losses=0\.5: must be a tensor of one loss per instance"),
    "losses per token": (torch.zeros(BATCH, TOKENS), r"shape \(16, 5\), expected \(16,\).* \* mask\)\.sum\(1\)"),
    "losses per pixel": (torch.zeros(BATCH, 3, 3), r"shape \(16, 3, 3\).* losses\.flatten\(1\)\.mean\(1\)"),
    "losses of one column": (torch.zeros(BATCH, 1), r"losses\.flatten\(1\)\.mean\(1\)"),
    "losses of a part": (torch.zeros(BATCH - 1), r"shape \(15,\), expected \(16,\).* in its order"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_loss_per_instance_is_explained_with_the_remedy(feed: Feed, mistake: str) -> None:
    losses, words = MISTAKES[mistake]
    tokens, _ = next(feed.loader(Sentences()))
    with pytest.raises(FeedMisuse, match=words):
        feed.report(losses)
    feed.report(tokens[:, 0])


def test_gradients_of_several_batches_are_accumulated_with_a_report_for_each(feed: Feed, tmp_path: Path) -> None:
    w = weight()
    optimizer = torch.optim.SGD([w], lr=1.0)
    seen, gradients = [], []
    for number, (tokens, _) in enumerate(feed.loader(Sentences())):
        (feed.report(tokens[:, 0] * w) / 2).backward()
        seen.append(float(tokens[:, 0].mean()))
        if number % 2 == 1:
            gradients.append(float(w.grad if w.grad is not None else 0.0))
            optimizer.step()
            optimizer.zero_grad()
    assert gradients == pytest.approx([(one + other) / 2 for one, other in zip(seen[::2], seen[1::2], strict=True)])
    assert len(known(feed, tmp_path)) == N


def test_a_batch_may_take_several_optimizer_steps_and_has_one_report(feed: Feed) -> None:
    w = weight()
    optimizer = torch.optim.SGD([w], lr=1e-4)
    for tokens, _ in feed.loader(Sentences()):
        for attempt in range(3):
            losses = tokens[:, 0] * w
            loss = feed.report(losses) if attempt == 0 else losses.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert feed.ended == "finished" and feed.steps == N // BATCH
