"""How old may the weights be with which an Assistant looks ahead? Selection by losses under weights K steps old.

One process, nothing delayed but the weights: the oracle of ``autoassist compare``, which selects by the losses of the
very step, given a copy of the Boss that is renewed every K steps. On the validation part.

    python -m benchmarks.stale_weights [--workload rotated-mnist]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from assistant.policies import Moment, Policy
from autoassist.oracle import Oracle
from benchmarks.common import machine, mean_sd, paired_difference, print_table
from boss.train import TrainSettings
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.settings import RunSettings
from workloads import Workload, load_workload


@dataclass(frozen=True, kw_only=True)
class StaleWeights:
    """Settings of the benchmark."""

    workload: str = "rotated-mnist"
    """Image workload; its validation part is what is evaluated."""

    epochs: int = 5
    """Of a full training."""

    share: float = 0.6
    """Of a full training's passes, for all that selects."""

    every_steps: tuple[int, ...] = (1, 100, 400, 1000)
    """Steps after which the copy is renewed."""

    seeds: tuple[int, ...] = (901, 902, 903)
    """Seeds."""


class Everything(Policy):
    """Keeps all."""

    wants_gate = False
    wants_noise_guard = False

    def observe(self, record: LossRecord) -> None:
        """Learns nothing."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """1."""
        del moment
        return np.ones(len(ids), dtype=np.float32)


class StaleOracle(Oracle):
    """An oracle whose losses of candidates come from a copy of the Boss, renewed every so many steps."""

    def __init__(
        self, workload: Workload, settings: RunSettings, every_steps: int, policy: Policy | None = None
    ) -> None:
        super().__init__(workload, settings, TrainSettings(device="cpu", threads=1), policy)
        self.every_steps = every_steps
        self._copy: nn.Module | None = None
        self._copied_at = 0

    def _losses(self, ids: I64) -> Tensor:
        if torch.is_grad_enabled() or self.every_steps == 1:
            return super()._losses(ids)
        if self._copy is None or self.trained.steps - self._copied_at >= self.every_steps:
            self._copy, self._copied_at = copy.deepcopy(self._boss), self.trained.steps
        trained, self._boss = self._boss, self._copy
        try:
            return super()._losses(ids)
        finally:
            self._boss = trained


def accuracy(settings: StaleWeights, seed: int, share: float, every_steps: int | None) -> float:
    """Of one training, %; every instance is kept where there is no ``every_steps``."""
    workload = load_workload(settings.workload, validation=True)
    passes = int(share * settings.epochs * workload.fingerprint().n)
    run = RunSettings(seed=seed, boss_instances=passes, policy="oracle")
    oracle = StaleOracle(workload, run, every_steps or 1, Everything() if every_steps is None else None)
    metric = oracle.run().metric
    assert metric is not None
    return 100 * metric.value


def main(settings: StaleWeights) -> None:
    """Train and print, seed by seed, so that an interrupted run has said something."""
    torch.set_num_threads(1)
    print(machine())
    print(
        f"{settings.workload}, validation part, {settings.epochs} epochs, seeds {', '.join(map(str, settings.seeds))}\n"
    )
    kinds: Sequence[tuple[str, float, int | None]] = (
        ("uniform", 1.0, None),
        ("uniform", settings.share, None),
        *(
            (f"losses under weights renewed every {every} steps", settings.share, every)
            for every in settings.every_steps
        ),
    )
    found: list[list[float]] = [[] for _ in kinds]
    for seed in settings.seeds:
        for (_, share, every_steps), metrics in zip(kinds, found, strict=True):
            metrics.append(accuracy(settings, seed, share, every_steps))
        print(f"seed {seed}: " + ", ".join(f"{metrics[-1]:.2f}" for metrics in found), flush=True)
    print()
    rows = [
        [name, f"{share:g}", mean_sd(metrics), paired_difference(metrics, found[0])]
        for (name, share, _), metrics in zip(kinds, found, strict=True)
    ]
    print_table(["selection", "passes", "accuracy, %", "more than uniform with all, points ± standard error"], rows)


if __name__ == "__main__":
    main(tyro.cli(StaleWeights))
