"""A comparison's bound: selection by fresh losses, whose forward passes nobody counts.

At each step, candidates in the epoch's order are run forward through the Boss as it stands at that step, and what is
kept of them by the losses of this very moment fills the batch. No selector can know the losses better, so this bounds
what knowing them better could bring the default's rule; another rule may save more (docs/RESULTS.md has such a set). It
is no policy for a run: the passes that it does not count are those that a selection is there to save.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assistant.drawing import draw
from assistant.estimates import RunningMean
from assistant.policies import Given, Guarded, Moment, Policy
from boss.clocks import Clocks
from boss.gradients import drop_poisoned_gradients
from boss.train import TrainSettings, autocast, seed_everything
from boss.weights import instance_weights
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.order import EpochOrder
from protocol.settings import RunSettings
from protocol.signals import StopSignal
from workloads import Metric, Workload

log = logging.getLogger("autoassist.oracle")


class FreshLosses(Policy):
    """The default's rule on fresh losses: π_i = clip(loss_i / T̄, γ, 1), T̄ the candidates' running mean."""

    wants_gate: ClassVar[bool] = False

    def __init__(self, n: int) -> None:
        self.losses: F32 = np.zeros(n, dtype=np.float32)
        self.mean = RunningMean()

    def observe(self, record: LossRecord) -> None:
        """Losses of candidates; nothing is left out, so each counts once."""
        self.losses[record.ids] = record.losses
        self.mean.add(record.losses, np.ones_like(record.losses))

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """See the class; the candidates' losses were observed just before."""
        del moment
        ratio: F32 = self.losses[ids] / np.float32(max(self.mean.value, 1e-12))
        return ratio


@dataclass
class Trained:
    """What an oracle's training was."""

    steps: int = 0
    instances: int = 0
    offered: int = 0
    kept: int = 0
    gradients_dropped: int = 0
    metric: Metric | None = None
    """None where a signal has ended it before."""
    clocks: Clocks = field(default_factory=Clocks)


class Oracle:
    """One training: the same order, seeds, schedule and options as a run of the real system with these settings.

    But for the warm-up: it is there to learn what to leave out, and the oracle knows from the first step on.
    """

    def __init__(
        self, workload: Workload, settings: RunSettings, train: TrainSettings, policy: Policy | None = None
    ) -> None:
        self.workload = workload
        self.settings = settings
        self.n = workload.fingerprint().n
        self.budget = settings.boss_instances or (settings.epoch_budget or 1) * self.n
        self.trained = Trained()
        self._device = train.resolved_device()
        self._train = train
        floor = Policy.default_floor if settings.floor is None else settings.floor
        given = Given(
            settings=dataclasses.replace(settings, warmup_epochs=0.0), n=self.n, floor=floor, labels=workload.labels()
        )
        self._policy = Guarded(policy or FreshLosses(self.n), given)
        seed_everything(settings.seed, deterministic=settings.deterministic)
        self._boss = workload.boss().to(self._device)

    def run(self, stop: StopSignal | None = None) -> Trained:
        """Train until the budget of Boss passes is spent, and evaluate; without a metric where it was stopped."""
        optimizer = self.workload.optimizer(self._boss)
        peak_lrs = [group["lr"] for group in optimizer.param_groups]
        self._boss.train()
        found = self.trained
        found.clocks.got_batch()
        for ids, keep in self._batches():
            if stop is not None and stop.requested:
                return found
            factor = self.workload.lr_factor(self.progress)
            for group, peak_lr in zip(optimizer.param_groups, peak_lrs, strict=True):
                group["lr"] = peak_lr * factor
            loss = _mean(self._losses(ids), keep, self.settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            found.gradients_dropped += not drop_poisoned_gradients(self._boss)
            optimizer.step()
            found.steps += 1
            found.instances += len(ids)
            found.clocks.reported()
        with found.clocks.evaluation(), torch.no_grad():
            found.metric = self.workload.evaluate(self._boss.eval(), self._device)
        return found

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 … 1."""
        return min(1.0, self.trained.instances / self.budget)

    def _batches(self) -> Iterator[tuple[I64, F32]]:
        """IDs and π of one step after the other, the last one of what is left of the budget."""
        ids, keep = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        candidates = self._candidates()
        while left := self.budget - self.trained.instances:
            size = min(left, self.settings.step_instances)
            while len(ids) < size:
                # Deciding is off the clock, as the Assistant's work is off the Boss's.
                with self.trained.clocks.checkpoint():
                    more, its_keep = self._select(*next(candidates))
                ids, keep = np.concatenate([ids, more]), np.concatenate([keep, its_keep])
            yield ids[:size], keep[:size]
            ids, keep = ids[size:], keep[size:]

    def _candidates(self) -> Iterator[tuple[int, int, I64]]:
        """(number, epoch, IDs), a step's worth at a time, so that losses are fresh; without an end."""
        number = epoch = 0
        while True:
            order = EpochOrder(self.n, self.settings.seed, epoch)
            for start in range(0, self.n, self.settings.step_instances):
                yield number, epoch, order.ids(start, min(self.n, start + self.settings.step_instances))
                number += 1
            epoch += 1

    def _select(self, number: int, epoch: int, ids: I64) -> tuple[I64, F32]:
        with torch.no_grad():
            losses = self._losses(ids).float().cpu().numpy()
        finite = np.isfinite(losses)
        steps, none = self.trained.steps, np.ones(int(finite.sum()), dtype=np.float32)
        self._policy.observe(
            LossRecord(
                position=number,
                step=steps,
                rank=0,
                learned_through=steps - 1,
                epoch=epoch,
                ids=ids[finite],
                losses=losses[finite],
                keep_probabilities=none,
            )
        )
        spent = min(1.0, (self.trained.instances + len(ids)) / self.budget)  # with this step, as the broker counts
        keep = self._policy.keep_probability(ids, Moment(epoch, spent))
        kept = self._drawn(number, ids, keep)
        self.trained.offered += len(ids)
        self.trained.kept += int(kept.sum())
        return ids[kept], keep[kept]

    def _drawn(self, number: int, ids: I64, keep: F32) -> NDArray[np.bool_]:
        del ids
        return draw(self.settings.seed, number, keep)

    def _losses(self, ids: I64) -> Tensor:
        inputs, targets = (part.to(self._device) for part in self.workload.batch(ids.tolist()))
        with autocast(self._device, self._train):
            return self.workload.losses(self._boss(inputs), targets)


def _mean(losses: Tensor, keep: F32, settings: RunSettings) -> Tensor:
    """Of the finite ones; weighed by 1/π where the settings say so."""
    finite = torch.isfinite(losses)
    scale = finite.to(losses.dtype)
    weights = instance_weights(keep, settings)
    if weights is not None:
        scale = scale * torch.from_numpy(weights).to(losses.device)
    return (scale * torch.where(finite, losses, 0.0)).sum() / scale.sum().clamp(min=1e-12)
