"""Every batch through the system, beside a plain DataLoader with the same data, batch size and workers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.boss_roles import boss, broker
from workloads.models import small_cnn

WARM_UP = 8
"""Batches that are not counted: workers have to start."""

TURNS = 8
"""Epochs through the feed, each between two of the plain loader: a single one's time scatters by a tenth."""

Step = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], None]


class Training:
    """A plain step of the small CNN."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = small_cnn(1, 28, 28, 10)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    def __call__(self, images: Tensor, labels: Tensor, mean: Callable[[Tensor], Tensor]) -> None:
        """Forward, ``mean`` of the losses, backward, update."""
        loss = mean(cross_entropy(self.model(images), labels, reduction="none"))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def no_model(images: Tensor, _: Tensor, mean: Callable[[Tensor], Tensor]) -> None:
    """Nothing but the mean of something."""
    mean(images[:, 0, 0, 0])


def pass_all(batches: int, batch_size: int, seed: int) -> dict[str, float]:
    """Instances/s through the feed, and their ratio to the plain loader's, by model and workers: medians of turns."""
    torch.manual_seed(seed)
    n = batches * batch_size
    data = TensorDataset(torch.rand(n, 1, 28, 28), torch.randint(10, (n,)))
    found = {}
    run = {"batch_size": batch_size, "seed": seed, "policy": "uniform", "prefetch_batches": 10}
    with broker() as address, boss(address, n=n, **run) as feed:
        for name, step in (("cnn", Training(seed)), ("bare", no_model)):
            for workers in (0, 2):
                arguments: dict[str, Any] = {"num_workers": workers}
                plain = DataLoader(data, batch_size=batch_size, shuffle=True, **arguments)
                per_s, ratios = [], []
                before = _per_s(plain, step, Tensor.mean)
                for _ in range(TURNS):
                    per_s.append(_per_s(feed.loader(data, **arguments), step, feed.report))
                    after = _per_s(plain, step, Tensor.mean)
                    ratios.append(2 * per_s[-1] / (before + after))
                    before = after
                found[f"{name}_per_s_{workers}"] = statistics.median(per_s)
                found[f"{name}_ratio_{workers}"] = statistics.median(ratios)
    return found


def _per_s(loader: Iterable[Any], step: Step, mean: Callable[[Tensor], Tensor]) -> float:
    """Instances a second of one epoch, once it runs."""
    start, instances = 0.0, 0
    for number, (images, labels) in enumerate(loader):
        if number == WARM_UP:
            start, instances = time.perf_counter(), 0
        step(images, labels, mean)
        instances += len(labels)
    return instances / (time.perf_counter() - start)
