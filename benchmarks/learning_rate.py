"""Whether uniform's learning rate is tuned: the full epoch at several peak rates, on the validation part.

A saving against a full epoch whose learning rate is too low or too high would be none. One process, no selection: the
workload's own optimizer and schedule, with its peak rate replaced.

    python -m benchmarks.learning_rate mnist --epochs 5 --rates 0.025 0.05 0.1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from benchmarks.common import machine, mean_sd, print_table
from boss.train import seed_everything
from protocol.order import EpochOrder
from workloads import Workload, load_workload


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Settings of the benchmark."""

    workload: Annotated[str, tyro.conf.Positional]
    """A workload that has a validation part."""

    epochs: int = 5
    """Epochs of each training, all of it decayed."""

    batch_size: int = 64
    """Instances per step."""

    rates: tuple[float, ...] = (0.025, 0.05, 0.1)
    """Peak learning rates."""

    seeds: tuple[int, ...] = (501,)
    """Seeds; none that the savings are measured with."""

    threads: int = 1
    """Torch threads."""


def trained(workload: Workload, settings: LearningRate, rate: float, seed: int) -> float:
    """The metric after a full training at this peak rate."""
    seed_everything(seed, deterministic=False)
    boss = workload.boss().train()
    optimizer = workload.optimizer(boss)
    n = workload.fingerprint().n
    done, total = 0, settings.epochs * n
    for epoch in range(settings.epochs):
        order = EpochOrder(n, seed, epoch).ids(0, n)
        for start in range(0, n, settings.batch_size):
            ids = order[start : start + settings.batch_size]
            for group in optimizer.param_groups:
                group["lr"] = rate * workload.lr_factor(done / total)
            inputs, targets = workload.batch(ids.tolist())
            optimizer.zero_grad(set_to_none=True)
            workload.losses(boss(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += len(ids)
    with torch.no_grad():
        return workload.evaluate(boss.eval(), torch.device("cpu")).value


def main(settings: LearningRate) -> None:
    """Train and print."""
    torch.set_num_threads(settings.threads)
    workload = load_workload(settings.workload, validation=True)
    print(f"{machine()}\n{settings.workload}, {settings.epochs} epochs, batch {settings.batch_size}\n")
    rows = []
    for rate in settings.rates:
        found = [100 * trained(workload, settings, rate, seed) for seed in settings.seeds]
        rows.append([f"{rate:g}", mean_sd(found)])
    print_table(["peak learning rate", "validation metric, %"], rows)


if __name__ == "__main__":
    main(tyro.cli(LearningRate))
