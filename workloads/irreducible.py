"""The loss of each instance under a model that was not trained on it: what the policy ``rho`` needs.

    python -m workloads.irreducible fashion-mnist --epochs 3 --output irreducible.npy
    autoassist run fashion-mnist --policy rho --irreducible-losses irreducible.npy

Mindermann et al. (ICML 2022, arXiv 2206.07137) train one small model on held-out data. Here two are trained, each on
one half of the training set, and each says the losses of the other half: no data is given away, which they show to work
as well. Price: as many passes as ``--epochs`` epochs of the model, and one epoch of forward passes, on the CPU.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from protocol.arrays import F32
from protocol.errors import AutoAssistError
from protocol.settings import require
from workloads.base import Workload
from workloads.registry import load_workload
from workloads.validate import validate_workload

log = logging.getLogger("autoassist.irreducible")

SCORED_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class IrreducibleSettings:
    """How the two models are trained."""

    workload: Annotated[str, tyro.conf.Positional]
    """Built-in name, package.module:Class or file.py:Class."""

    output: Path
    """The .npy file that is written."""

    model: str = ""
    """Their architecture; a smaller one than the Boss's will do."""

    data_dir: Path | None = None
    """Directory that holds the data set's files."""

    validation: bool = False
    """Image workloads: without the part that --validation holds out of a run."""

    epochs: int = 3
    """Epochs of each half."""

    batch_size: int = 64
    """Instances per step."""

    seed: int = 1
    """Seed of the halves, of the order and of the models."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.output.suffix == ".npy", "output", self.output, "must end in .npy")


def irreducible_losses(workload: Workload, *, epochs: int, batch_size: int, seed: int) -> F32:
    """Loss of each training instance under a model of the half that it is not in, shape ``(n,)``."""
    rng = np.random.default_rng(seed)
    halves = np.array_split(rng.permutation(workload.fingerprint().n), 2)
    losses = np.zeros(sum(map(len, halves)), dtype=np.float32)
    with torch.random.fork_rng(devices=[]):
        for number, (seen, unseen) in enumerate((halves, halves[::-1])):
            torch.manual_seed(seed)
            boss = _fitted(workload, seen, rng, epochs=epochs, batch_size=batch_size)
            losses[unseen] = _scored(workload, boss, unseen)
            log.info("half %d: mean loss %.4f on the other", number + 1, losses[unseen].mean())
    return losses


def _fitted(
    workload: Workload, ids: NDArray[np.int64], rng: np.random.Generator, *, epochs: int, batch_size: int
) -> nn.Module:
    boss = workload.boss()
    optimizer = workload.optimizer(boss)
    peak_lrs = [group["lr"] for group in optimizer.param_groups]
    starts = range(0, len(ids), batch_size)
    boss.train()
    for epoch in range(epochs):
        order = rng.permutation(ids)
        for step, start in enumerate(starts):
            progress = (epoch + (step + 1) / len(starts)) / epochs
            for group, peak_lr in zip(optimizer.param_groups, peak_lrs, strict=True):
                group["lr"] = peak_lr * workload.lr_factor(progress)
            inputs, targets = workload.batch(order[start : start + batch_size].tolist())
            optimizer.zero_grad(set_to_none=True)
            workload.losses(boss(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return boss


def _scored(workload: Workload, boss: nn.Module, ids: NDArray[np.int64]) -> F32:
    found = np.zeros(len(ids), dtype=np.float32)
    boss.eval()
    with torch.no_grad():
        for start in range(0, len(ids), SCORED_AT_ONCE):
            inputs, targets = workload.batch(ids[start : start + SCORED_AT_ONCE].tolist())
            found[start : start + SCORED_AT_ONCE] = workload.losses(boss(inputs), targets).float().numpy()
    return found


def main(settings: IrreducibleSettings) -> None:
    """Train, score, write."""
    workload = load_workload(
        settings.workload, model=settings.model, data_dir=settings.data_dir, validation=settings.validation
    )
    validate_workload(workload)
    losses = irreducible_losses(workload, epochs=settings.epochs, batch_size=settings.batch_size, seed=settings.seed)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    np.save(settings.output, losses, allow_pickle=False)
    log.info("%d losses in %s", len(losses), settings.output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(tyro.cli(IrreducibleSettings))
    except AutoAssistError as error:
        sys.exit(f"error: {error}")
