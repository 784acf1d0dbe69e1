"""A workload whose losses say under which weights they were computed, and its snapshots, to look ahead with."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from assistant.ahead import Offered
from protocol.order import EpochOrder
from workloads.base import Fingerprint, Metric, Workload
from workloads.snapshot_files import snapshot_content

N, SEED, DEADLINE_S = 600, 3, 120.0
BEGUN_VARIABLE = "LOOKING_HAS_BEGUN"


class Scaled(Workload):
    """Instance i has the input i; its loss is that times the network's one weight."""

    width = 1

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("scaled", N)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(list(ids), dtype=torch.float32)[:, None]
        return rows, rows

    def boss(self) -> nn.Module:
        return nn.Linear(self.width, 1, bias=False)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0]

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        return Metric("none", 0.0)


class Broken(Scaled):
    """Its losses cannot be computed."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError("no losses today")


class Slow(Scaled):
    """An instance of it takes so long."""

    each_s = 0.05

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        time.sleep(self.each_s * len(ids))
        return super().batch(ids)


class Endless(Slow):
    """The first is never done; a file says that it has begun."""

    each_s = 3600.0

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        Path(os.environ[BEGUN_VARIABLE]).touch()
        return super().batch(ids)


class Other(Scaled):
    """Has become another data set."""

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("another", N)


def write(path: Path, weight: float, *, step: int = 100, width: int = 1) -> None:
    """A snapshot with this one weight."""
    part = path.with_suffix(".part")
    torch.save(snapshot_content(step, {"weight": torch.full((1, width), weight)}), part)
    part.replace(path)


def offered(epoch: int, start: int, size: int = 64) -> Offered:
    """Of a window there."""
    return Offered.of(epoch, EpochOrder(N, SEED, epoch).ids(start, start + size))
