"""The training loop: what the paper calls the Boss, with nothing but the public feed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from boss.checkpoint import BossState, Saver, restore
from boss.feed import Feed
from boss.gradients import GradientGuard
from boss.snapshots import Snapshots
from protocol.errors import SettingError
from protocol.metric import metric_text
from protocol.settings import require
from protocol.signals import StopSignal
from workloads import Workload

log = logging.getLogger("autoassist.boss")

DeviceName = Literal["auto", "cpu", "cuda"]

MAX_THREADS = 1024
"""With many more than there are cores, torch cannot start them all and the process dies without a word."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the Boss computes; nothing of this changes which batches it gets."""

    device: DeviceName = "auto"
    """Where the Boss computes; auto takes the GPU if there is one."""

    bf16: bool = False
    """Autocast to bfloat16; on a GPU only."""

    threads: int = 0
    """Torch threads on the CPU. 0: torch's own choice, or where other roles run here too all cores but one (of eight
    and more but two, where Assistants look ahead)."""

    def __post_init__(self) -> None:
        require(self.threads >= 0, "threads", self.threads, "must not be negative")
        require(self.threads <= MAX_THREADS, "threads", self.threads, f"must be at most {MAX_THREADS}")

    def resolved_device(self) -> torch.device:
        """The torch device; raises SettingError for a GPU that is not there, or that two ranks would share."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingError("device=cuda: torch finds no GPU; use --device cpu or install a CUDA build of torch")
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        gpus, ranks = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if 1 < gpus < ranks:  # a single one may be all that each rank is shown, of several
            raise SettingError(
                f"{ranks} ranks on this host and {gpus} GPUs: NCCL takes no two ranks on one; start as many ranks as "
                "there are GPUs, or use --device cpu"
            )
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)


class InstanceDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A workload as a data set that is read by whole batches."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._n = workload.fingerprint().n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._workload.batch([index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self._workload.batch(indices)


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed torch; in deterministic mode also refuse algorithms that are not."""
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def train(
    workload: Workload,
    feed: Feed,
    settings: TrainSettings,
    *,
    stop: StopSignal | None = None,
    saver: Saver | None = None,
    state: BossState | None = None,
    snapshots: Snapshots | None = None,
) -> nn.Module:
    """Train until the feed ends, from ``state`` on if there is one; returns the trained Boss."""
    device = settings.resolved_device()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    seed_everything(feed.settings.seed, deterministic=feed.settings.deterministic)
    boss = workload.boss().to(device)
    optimizer = workload.optimizer(boss)
    if stop is not None:
        stop.on_stop = feed.stop
        if stop.requested:  # while the data was loaded
            feed.stop()
    guard = GradientGuard(boss, feed)
    peak_lrs = [group["lr"] for group in optimizer.param_groups]
    model = boss if feed.settings.world_size == 1 else DistributedDataParallel(boss)
    if feed.rank:  # the same weights as rank 0, and other random numbers from here on
        torch.manual_seed(feed.settings.seed + (feed.rank << 32))
    if state is not None:
        restore(state, boss, optimizer, rank=feed.rank)

    for batches in epochs(feed, InstanceDataset(workload), device):
        boss.train()
        for inputs, targets in batches:
            for group, peak_lr in zip(optimizer.param_groups, peak_lrs, strict=True):
                group["lr"] = peak_lr * workload.lr_factor(feed.progress)
            with autocast(device, settings):
                losses = workload.losses(model(inputs), targets)
            loss = feed.report(losses, workload.token_counts(targets))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            guard.check()
            optimizer.step()
            if snapshots is not None and feed.rank == 0:
                snapshots.take(boss, feed.steps - 1)
            if saver is not None and saver.is_due(feed):
                guard.look()
                saver.save(feed, boss, optimizer)
        end_epoch(workload, boss, feed, guard)
    if saver is not None and feed.ended == "stopped":
        saver.save(feed, boss, optimizer)
    return boss


def epochs(feed: Feed, dataset: InstanceDataset, device: torch.device) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """One iterator of batches per epoch, until the run ends."""
    while not feed.ended:
        loader = feed.loader(dataset, collate_fn=lambda batch: batch, pin_memory=device.type == "cuda")
        yield ((x.to(device, non_blocking=True), y.to(device, non_blocking=True)) for x, y in loader)


def autocast(device: torch.device, settings: TrainSettings) -> AbstractContextManager[object]:
    """bfloat16 on a GPU where asked for; float32 on the CPU always."""
    if settings.bf16 and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def end_epoch(workload: Workload, boss: nn.Module, feed: Feed, guard: GradientGuard) -> None:
    """Look at what the steps of the epoch were, once they are done, and evaluate."""
    device = next(boss.parameters()).device
    feed.until_done()
    guard.look()
    evaluate(workload, boss, feed, device)
    if device.type == "cuda" and not feed.ended:
        feed.gather(0)  # the ranks wait for rank 0's evaluation here: NCCL ends who waits for ten minutes in it


def evaluate(workload: Workload, boss: nn.Module, feed: Feed, device: torch.device) -> None:
    """Evaluate on held-out data, off the training clocks, and record the metric; rank 0 does it for all."""
    if feed.rank or feed.ended in ("stopped", "failed"):
        return
    with feed.evaluation(), torch.no_grad():
        boss.eval()
        metric = workload.evaluate(boss, device)
    feed.record_metric(metric.name, metric.value)
    log.info("epoch %d: %s %s after %d instances", feed.epoch, metric.name, metric_text(metric.value), feed.instances)
