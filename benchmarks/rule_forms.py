"""Other forms of the default's rule, each with the losses at hand: does one select better? On the validation part.

One process: the selection of ``benchmarks.stale_weights``, with weights that are renewed every 100 steps, so that the
form alone makes the difference. Each form is compared with the proportional rule, π = clip(ℓ/T̄, 0.1, 1), by pairs of
one seed.

    python -m benchmarks.rule_forms imbalanced-fashion-mnist --epochs 12 --forms rank last-loss half-and-half
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from assistant.policies import Moment
from autoassist.oracle import FreshLosses
from benchmarks.common import machine, mean_sd, paired_difference, print_table
from benchmarks.stale_weights import StaleOracle
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.settings import RunSettings
from workloads import Workload, load_workload

EVERY_STEPS = 100
RECENT = 1024
"""Losses whose ranks are taken, as selective-backprop does."""
CLASS_DECAY = 0.99
"""Of a class's mean loss, per instance of it."""
PROPORTIONAL = "proportional"
OfTheLoss = Literal["square-root", "rank", "class-mean", "floor-0.3"]
OfTheLastLoss = Literal["last-loss", "last-loss-rank", "half-and-half"]
OfTheRest = Literal["evenly-drawn", "rate-0.5", "rate-1.5", "rate-2"]
"""The drawing, and the learning rate."""
FORMS = (*get_args(OfTheLoss), *get_args(OfTheLastLoss), *get_args(OfTheRest))


@dataclass(frozen=True, kw_only=True)
class RuleForms:
    """Settings of the benchmark."""

    workload: Annotated[str, tyro.conf.Positional]
    """Image workload; its validation part is what is evaluated."""

    forms: tuple[OfTheLoss | OfTheLastLoss | OfTheRest, ...] = FORMS
    """Forms to compare with the proportional one."""

    epochs: int = 5
    """Of a full training."""

    share: float = 0.6
    """Of a full training's passes."""

    seeds: tuple[int, ...] = (961, 962, 963, 964, 965, 966, 967, 968)
    """Seeds."""


class Form(FreshLosses):
    """π by one form of the rule, before floor and limit are laid on it."""

    def __init__(self, n: int, form: str, labels: NDArray[np.int64]) -> None:
        super().__init__(n)
        self.form = form
        self.labels = labels
        self.when_trained: F32 = np.full(n, np.nan, dtype=np.float32)
        """The loss of each instance as it was when it was kept last; NaN of one that never was."""
        self._recent: F32 = np.empty(0, dtype=np.float32)
        self._class_means = np.zeros(int(labels.max()) + 1)

    def observe(self, record: LossRecord) -> None:
        """Losses of candidates."""
        super().observe(record)
        self._recent = np.concatenate([self._recent, record.losses])[-RECENT:]
        labels = self.labels[record.ids]
        for label in np.unique(labels):
            losses = record.losses[labels == label]
            left = CLASS_DECAY ** len(losses) if self._class_means[label] else 0.0
            self._class_means[label] = left * self._class_means[label] + (1 - left) * losses.mean()

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class."""
        relative = super().keep_probability(ids, moment)
        match self.form:
            case "square-root":
                return np.sqrt(relative)
            case "rank":
                return _ranks(self.losses[ids], self._recent)
            case "class-mean":
                return (self._class_means[self.labels[ids]] / max(self.mean.value, 1e-12)).astype(np.float32)
            case "floor-0.3":
                return np.maximum(relative, np.float32(0.3))
            case "last-loss" | "last-loss-rank" | "half-and-half":
                return self._by_last_loss(ids, relative)
            case _:
                return relative

    def _by_last_loss(self, ids: I64, relative: F32) -> F32:
        last, all_last = self.when_trained[ids], self.when_trained[np.isfinite(self.when_trained)]
        if not len(all_last):
            return np.ones(len(ids), dtype=np.float32)
        found = last / all_last.mean()
        if self.form == "last-loss-rank":
            found = _ranks(last, all_last[:: max(1, len(all_last) // RECENT)])
        elif self.form == "half-and-half":
            found = (found + relative) / 2
        return np.where(np.isnan(last), np.float32(1.0), found).astype(np.float32)


def _ranks(losses: F32, among: F32) -> F32:
    """The share of those that is less, 0 … 1."""
    return (np.searchsorted(np.sort(among), losses) / len(among)).astype(np.float32)


class FormOracle(StaleOracle):
    """A training whose selection is of that form."""

    def __init__(self, workload: Workload, settings: RunSettings, form: str) -> None:
        labels = workload.labels()
        assert labels is not None
        self.form = Form(len(labels), form, np.asarray(labels))
        super().__init__(workload, settings, EVERY_STEPS, self.form)
        self._owed = np.random.default_rng(settings.seed).random(self.n)
        """Of the even drawing: what is left of the sum of an instance's π since it was kept last."""

    def _select(self, number: int, epoch: int, ids: I64) -> tuple[I64, F32]:
        kept, keep = super()._select(number, epoch, ids)
        self.form.when_trained[kept] = self.form.losses[kept]
        return kept, keep

    def _drawn(self, number: int, ids: I64, keep: F32) -> NDArray[np.bool_]:
        if self.form.form != "evenly-drawn":
            return super()._drawn(number, ids, keep)
        self._owed[ids] += keep
        kept: NDArray[np.bool_] = self._owed[ids] >= 1.0
        self._owed[ids] -= kept
        return kept


def accuracy(settings: RuleForms, form: str, seed: int) -> float:
    """Of one training, %."""
    workload = load_workload(settings.workload, validation=True)
    passes = int(settings.share * settings.epochs * workload.fingerprint().n)
    if form.startswith("rate-"):
        factor, schedule = float(form.removeprefix("rate-")), workload.lr_factor
        workload.lr_factor = lambda progress: factor * schedule(progress)  # type: ignore[method-assign]
    metric = FormOracle(workload, RunSettings(seed=seed, boss_instances=passes, policy="oracle"), form).run().metric
    assert metric is not None
    return 100 * metric.value


def main(settings: RuleForms) -> None:
    """Train and print, seed by seed, so that an interrupted run has said something."""
    torch.set_num_threads(1)
    print(machine())
    print(f"{settings.workload}, validation part, {settings.share:g} of {settings.epochs} epochs, weights renewed ")
    print(f"every {EVERY_STEPS} steps; seeds {', '.join(map(str, settings.seeds))}\n")
    forms = (PROPORTIONAL, *settings.forms)
    found: dict[str, list[float]] = {form: [] for form in forms}
    for seed in settings.seeds:
        for form in forms:
            found[form].append(accuracy(settings, form, seed))
        print(f"seed {seed}: " + ", ".join(f"{form} {found[form][-1]:.2f}" for form in forms), flush=True)
    print()
    rows = [[form, mean_sd(found[form]), paired_difference(found[form], found[PROPORTIONAL])] for form in forms]
    print_table(["form", "accuracy, %", "more than proportional, points ± standard error"], rows)


if __name__ == "__main__":
    main(tyro.cli(RuleForms))
