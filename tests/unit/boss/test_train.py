"""The training loop: its learning rate runs on progress, and steps that would ruin the network train nothing."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from boss.feed import Feed
from boss.gradients import GradientGuard, drop_poisoned_gradients
from boss.line import LocalSettings
from boss.reporter import HOPELESS_STEPS
from boss.snapshots import Snapshots, SnapshotSettings
from boss.train import MAX_THREADS, TrainSettings, train
from protocol.errors import SettingError, TrainingDiverged
from protocol.report import read_report
from workloads.digits import Digits
from workloads.snapshot_files import read_snapshot


def feed_of(workload: Digits, address: str, epochs: int) -> Feed:
    fingerprint = workload.fingerprint()
    return Feed.connect(
        address,
        n=fingerprint.n,
        dataset_id=fingerprint.dataset_id,
        epochs=epochs,
        policy="uniform",
        batch_size=32,
        local=LocalSettings(on_broker_loss="wait"),  # on a busy machine it would draw batches of its own
    )


class WatchedSgd(torch.optim.SGD):
    """Notes the learning rate of each step."""

    lrs: list[float]

    def step(self, *arguments: object, **named: object) -> None:  # type: ignore[override]
        self.lrs.append(self.param_groups[0]["lr"])
        super().step(*arguments, **named)  # type: ignore[arg-type]


class Watched(Digits):
    """Digits with an optimizer that is looked at."""

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        self.used = WatchedSgd(boss.parameters(), lr=0.5)
        self.used.lrs = []
        return self.used


def test_the_learning_rate_is_the_workload_s_at_the_progress_of_each_step(address: str) -> None:
    workload = Watched()
    with feed_of(workload, address, 2) as feed:
        train(workload, feed, TrainSettings(device="cpu"))
        steps, n, window = feed.steps, workload.fingerprint().n, 128
    lrs = workload.used.lrs
    assert len(lrs) == steps
    per_epoch = -(-n // window)
    for step in (0, steps // 2, steps - 1):
        windows = min(2 * per_epoch, step * 32 // window + 1)
        assert lrs[step] == pytest.approx(0.5 * workload.lr_factor(windows / (2 * per_epoch)), abs=0.05)
    assert lrs[-1] < 0.01 < 0.3 < max(lrs), "it decays fully"


class RootOfNothing(Digits):
    """Finite losses whose gradient is NaN, as of a square root at zero; from the tenth step on for as many as asked."""

    calls, bad_steps = 0, 10**9

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = super().losses(outputs, targets)
        self.calls += torch.is_grad_enabled()
        if 10 <= self.calls < 10 + self.bad_steps:
            losses = losses + torch.sqrt((outputs * 0).sum(1).abs())
        return losses


def test_steps_without_a_finite_gradient_are_left_out_counted_and_said(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workload = RootOfNothing()
    workload.bad_steps = 5
    with feed_of(workload, address, 3) as feed:
        boss = train(workload, feed, TrainSettings(device="cpu"))
    assert all(torch.isfinite(p).all() for p in boss.parameters())
    report = read_report(tmp_path)
    assert (report.status, report.boss.gradients_dropped) == ("finished", 5)
    assert report.metric.value is not None and report.metric.value > 0.8
    assert sum("the gradient is NaN or infinite" in r.getMessage() for r in caplog.records) == 1


def test_a_training_in_which_no_gradient_is_finite_any_more_ends_with_an_error(address: str) -> None:
    workload = RootOfNothing()
    with pytest.raises(TrainingDiverged, match="no gradient was finite"), feed_of(workload, address, 30) as feed:
        train(workload, feed, TrainSettings(device="cpu"))
    assert workload.calls <= 10 + HOPELESS_STEPS


def test_gradients_that_are_only_large_are_kept() -> None:
    """Their norm in float32 would overflow; none of them is infinite."""
    boss = nn.Linear(2, 1)
    (boss(torch.ones(1, 2)) * 1e30).sum().backward()
    assert bool(drop_poisoned_gradients(boss))
    assert float(boss.weight.grad.abs().max()) == pytest.approx(1e30)  # type: ignore[union-attr]


class Watching(Snapshots):
    """Notes after which step it is asked, and what the weights are then."""

    def __init__(self, path: Path) -> None:
        super().__init__(SnapshotSettings(snapshots=path, snapshot_every=10))
        self.asked: list[tuple[int, Tensor]] = []

    def take(self, boss: nn.Module, step: int) -> None:
        weights = torch.cat([p.detach().flatten() for p in boss.parameters()])
        self.asked.append((step, weights))
        super().take(boss, step)


def test_the_loop_offers_its_weights_after_every_step_and_a_snapshot_is_one_of_them(
    address: str, tmp_path: Path
) -> None:
    workload, path = Digits(), tmp_path / "snapshot.pt"
    with feed_of(workload, address, 1) as feed, Watching(path) as snapshots:
        boss = train(workload, feed, TrainSettings(device="cpu"), snapshots=snapshots)
        assert [step for step, _ in snapshots.asked] == list(range(feed.steps))
    trained = torch.cat([p.detach().flatten() for p in boss.parameters()])
    assert torch.equal(snapshots.asked[-1][1], trained) and not torch.equal(snapshots.asked[0][1], trained)
    found = read_snapshot(path)
    assert found is not None and found[0] >= 9
    other = workload.boss()
    other.load_state_dict(found[1])
    assert torch.equal(torch.cat([p.detach().flatten() for p in other.parameters()]), snapshots.asked[found[0]][1])


def test_a_rank_that_is_not_the_first_takes_none(address: str, tmp_path: Path) -> None:
    with feed_of(Digits(), address, 1) as feed, Watching(tmp_path / "snapshot.pt") as snapshots:
        feed.rank = 1
        train(Digits(), feed, TrainSettings(device="cpu"), snapshots=snapshots)
    assert not snapshots.asked


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_gradient_that_is_not_finite_drops_all(value: float) -> None:
    boss = nn.Linear(2, 1)
    boss(torch.ones(1, 2)).sum().backward()
    boss.weight.grad[0, 0] = value  # type: ignore[index]
    assert not bool(drop_poisoned_gradients(boss))
    assert all(not p.grad.any() for p in boss.parameters() if p.grad is not None)


def test_more_threads_than_torch_can_start_are_refused() -> None:
    """Else the process dies without a word, and is started again and again."""
    assert TrainSettings(threads=MAX_THREADS).threads == 1024
    with pytest.raises(SettingError, match="threads=100000: must be at most 1024"):
        TrainSettings(threads=100_000)


@pytest.mark.parametrize(("gpus", "ranks", "index"), [(4, 4, 3), (8, 4, 3), (1, 4, 0)])
def test_each_rank_of_a_host_has_a_gpu_of_its_own(
    gpus: int, ranks: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows_gpus(gpus, ranks, monkeypatch)
    assert TrainSettings().resolved_device() == torch.device("cuda", index)


def test_more_ranks_than_gpus_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    shows_gpus(2, 4, monkeypatch)
    with pytest.raises(SettingError, match=r"4 ranks on this host and 2 GPUs: .*use --device cpu"):
        TrainSettings().resolved_device()
    assert TrainSettings(device="cpu").resolved_device() == torch.device("cpu")


def shows_gpus(gpus: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last of so many ranks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.setenv("LOCAL_RANK", str(ranks - 1))


def test_a_resumed_training_counts_on_from_the_gradients_that_were_left_out_before() -> None:
    boss = nn.Linear(1, 1)
    feed = MagicMock(gradients_dropped=3, steps=1)
    guard = GradientGuard(boss, feed)
    boss.weight.grad = torch.full((1, 1), float("nan"))
    guard.check()
    assert feed.gradients_dropped == 4
