"""What the feed costs a Boss on a GPU, beside a plain DataLoader loop in the same run; the data lies on the device.

Two trainings, a ResNet on Fashion-MNIST and a Transformer, by turns of ``--turn`` steps with the plain loop; each turn
ends when the device is done. First every batch through the system (policy uniform), then the default policy with one
Assistant process. A profiler trace counts what waits for the device, and a report that does so is an error throughout.
Then a training that runs far ahead of its device: whether its losses still come back.

    python -m benchmarks.gpu [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.boss_overhead import reporting
from benchmarks.boss_roles import assistant, boss, broker
from benchmarks.common import machine
from benchmarks.figures import Figure, Figures
from benchmarks.gpu_lag import STEPS, lagging
from benchmarks.gpu_trainings import Training, resnet_training, transformer_training, whole
from boss.feed import Feed

WARM_UP_STEPS = 30
WAITING_CALLS = ("Synchronize", "cudaMemcpy")
"""In the names of the runtime's calls that wait for the device; those ending in Async do not."""
TRACED = "the steps that are traced"
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class GpuBenchmark:
    """Settings of the benchmark."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Where data and models lie; cpu to try the script."""

    turn: int = 20
    """Steps in a row, of one kind."""

    turns: int = 10
    """Of the feed, a repetition; as many of the plain loop, and one more."""

    repetitions: int = 3
    """Repetitions of each, in turn."""

    depth: int = 20
    """Layers of the ResNet: 6n+2."""

    resnet_batch: int = 512
    """Images per batch."""

    size: str = "base"
    """Of the Transformer: tiny, small, base."""

    transformer_batch: int = 128
    """Pairs of 64 tokens a side per batch."""

    traced: int = 3
    """Steps of each kind under the profiler, whose trace takes seconds to read."""

    data_dir: Path | None = None
    """Directory with Fashion-MNIST's files; without one it is fetched, or the cache has it."""

    seed: int = 1
    """Of the run, the weights and the tokens."""

    json: Path | None = None
    """File for the figures: medians, and all values under their names."""


def known() -> dict[str, Figure]:
    """The figures of each training."""
    found: dict[str, Figure] = {}
    for name in ("resnet", "transformer"):
        found |= {
            f"{name}_step_ms": Figure(f"{name}: plain step, ms"),
            f"{name}_ratio": Figure("every batch through the feed : plain DataLoader, instances/s", "≥ 0.97", ".3f"),
            f"{name}_per_s": Figure("instances/s through the feed", "", ".0f"),
            f"{name}_report_p50_us": Figure("its report on the training thread, p50, µs", "< 60", ".1f"),
            f"{name}_report_p99_us": Figure("p99, µs", "< 200", ".0f"),
            f"{name}_mean_p50_us": Figure("the plain loop's mean of the losses, p50, µs", "", ".1f"),
            f"{name}_bare_p50_us": Figure("a mean, and a copy into pinned memory: both bare, p50, µs", "", ".1f"),
            f"{name}_next_p50_us": Figure("the next batch, gathered on the device, p50, µs", "", ".1f"),
            f"{name}_plain_next_p50_us": Figure("the plain loop's next batch, p50, µs", "", ".1f"),
            f"{name}_wait_percent": Figure("exposed wait, % of its time", "≤ 0.5"),
            f"{name}_selected_ratio": Figure("default policy, one Assistant : plain, instances/s", "≥ 0.97", ".3f"),
            f"{name}_selected_wait_percent": Figure("exposed wait, % of its time", "≤ 0.5"),
            f"{name}_selected_scored_percent": Figure("batches that the Assistant has scored, %", "", ".0f"),
            f"{name}_dropped_percent": Figure("losses that found no room on their way to the host, %", "0"),
            f"{name}_waits": Figure("calls that wait for the device, a step through the feed", "0"),
            f"{name}_plain_waits": Figure("a plain step", ""),
        }
    return found | {
        "lag_step_ms": Figure(f"matrix products, launched far ahead of the device, {STEPS} steps: a step, ms"),
        "lag_steps": Figure("steps that the device was behind when the last was launched", "", ".0f"),
        "lag_on_their_way": Figure("their reports that were on their way then", "", ".0f"),
        "lag_dropped_percent": Figure("losses that found no room on their way to the host, %", "0"),
    }


@dataclass
class Loop:
    """Steps of one kind, and what they took on the training thread."""

    training: Training
    batches: Iterator[Batch]
    mean: Callable[[Tensor], Tensor]
    next_us: list[float]
    mean_us: list[float]
    seconds: float = 0.0
    instances: int = 0

    def turn(self, steps: int, look: Callable[[], object] = bool) -> float:
        """So many, with a ``look`` at each; returns the instances a second, once the device is done."""
        start, instances = time.perf_counter(), 0
        for _ in range(steps):
            instances += self.step(look)
        wait_for_device()
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.instances += instances
        return instances / seconds

    def step(self, look: Callable[[], object] = bool) -> int:
        """One, with a ``look`` once its batch is there; returns its instances."""
        start = time.perf_counter()
        inputs, targets = next(self.batches)
        self.next_us.append(1e6 * (time.perf_counter() - start))
        look()
        losses = self.training.losses(inputs, targets)
        start = time.perf_counter()
        mean = self.mean(losses)
        self.mean_us.append(1e6 * (time.perf_counter() - start))
        self.training.update(mean)
        return len(losses)

    def begin(self) -> None:
        """Forget what was measured."""
        self.next_us.clear()
        self.mean_us.clear()
        self.seconds, self.instances = 0.0, 0


def plain(training: Training) -> Loop:
    """Batches of a DataLoader, and the mean of their losses."""
    return Loop(training, training.plain_batches(), Tensor.mean, [], [])


def fed(training: Training, feed: Feed) -> Loop:
    """The same through the feed."""

    def batches() -> Iterator[Batch]:
        while not feed.ended:
            yield from feed.loader(training.data, collate_fn=whole)

    return Loop(training, batches(), reporting(feed), [], [])


def wait_for_device() -> None:
    """Until all that was launched is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(settings: GpuBenchmark, training: Training, policy: str) -> dict[str, float]:
    """Turns of the feed, each between two of the plain loop; with an Assistant where the policy wants one."""
    run = {"n": len(training.data), "batch_size": training.batch_size, "seed": settings.seed, "policy": policy}
    with ExitStack() as stack:
        address = stack.enter_context(broker())
        feed = stack.enter_context(boss(address, **run))
        if policy != "uniform":
            stack.enter_context(assistant(address)).joined.wait()
        ours, other = fed(training, feed), plain(training)
        for loop in (ours, other):
            loop.turn(WARM_UP_STEPS)
            loop.begin()
        waited_s, scored, ratios = feed.clocks.exposed_wait_s, list[bool](), []
        before = other.turn(settings.turn)
        for _ in range(settings.turns):
            per_s = ours.turn(settings.turn, lambda: scored.append(is_scored(feed)))
            after = other.turn(settings.turn)
            ratios.append(2 * per_s / (before + after))
            before = after
        found = {
            "step_ms": 1e3 * other.seconds / (settings.turns + 1) / settings.turn,
            "ratio": statistics.median(ratios),
            "per_s": ours.instances / ours.seconds,
            "report_p50_us": statistics.median(ours.mean_us),
            "report_p99_us": float(np.quantile(ours.mean_us, 0.99)),
            "mean_p50_us": statistics.median(other.mean_us),
            "next_p50_us": statistics.median(ours.next_us),
            "plain_next_p50_us": statistics.median(other.next_us),
            "wait_percent": 100 * (feed.clocks.exposed_wait_s - waited_s) / ours.seconds,
            "scored_percent": 100 * statistics.fmean(scored),
            "dropped_percent": 100 * feed._reporter.values_dropped / feed.instances,
        }
        found["bare_p50_us"] = bare_us(other, settings.turn)
        if policy == "uniform":
            found |= {"waits": waits_a_step(settings, ours), "plain_waits": waits_a_step(settings, other)}
        return found


def bare_us(loop: Loop, steps: int) -> float:
    """What two calls of torch cost the training thread there, p50 of so many steps: a mean, and a copy to the host that
    does not wait. The least that a report made of such calls can cost."""
    pinned = torch.empty(loop.training.batch_size, pin_memory=torch.cuda.is_available())

    def both(losses: Tensor) -> Tensor:
        pinned[: len(losses)].copy_(losses.detach(), non_blocking=True)
        return losses.mean()

    loop.mean, before = both, loop.mean
    loop.begin()
    loop.turn(steps)
    loop.mean = before
    return statistics.median(loop.mean_us)


def is_scored(feed: Feed) -> bool:
    """Whether an Assistant has scored the batch at hand."""
    return feed._plan.pulled[0].staleness is not None


def waits_a_step(settings: GpuBenchmark, loop: Loop) -> float:
    """Calls of the runtime that wait for the device, by a profiler's trace of the training thread's steps."""
    on_device = [ProfilerActivity.CUDA] if settings.device == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *on_device], acc_events=True) as trace:
        with record_function(TRACED):
            for _ in range(settings.traced):
                loop.step()
        wait_for_device()
    events = trace.events()
    assert events is not None
    (steps,) = (event for event in events if event.name == TRACED and event.device_type.name == "CPU")
    began, ended = steps.time_range.start, steps.time_range.end
    waits = [event for event in events if is_wait(event.name) and began <= event.time_range.start < ended]
    return len(waits) / settings.traced


def is_wait(name: str) -> bool:
    """Whether a runtime call of that name returns only when the device is done."""
    return any(part in name for part in WAITING_CALLS) and not name.endswith("Async")


def measure(settings: GpuBenchmark) -> Figures:
    """Both trainings, in turn."""
    found, device = Figures(), torch.device(settings.device)
    for _ in range(settings.repetitions):
        torch.manual_seed(settings.seed)
        trainings = {
            "resnet": resnet_training(device, settings.depth, settings.resnet_batch, settings.data_dir),
            "transformer": transformer_training(device, settings.size, settings.transformer_batch),
        }
        for name, training in trainings.items():
            every = compare(settings, training, "uniform")
            selected = compare(settings, training, "autoassist")
            found.note(**{f"{name}_{key}": value for key, value in every.items()})
            found.note(**{f"{name}_selected_{key}": value for key, value in selected.items()})
            print(f"{name}: {every}\n{selected}", file=sys.stderr)
        found.note(**lagging(settings.device, settings.seed))
    return found


def main(settings: GpuBenchmark) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    on = torch.cuda.get_device_name() if settings.device == "cuda" else "no GPU"
    print(f"{machine()}; {on}, torch {torch.__version__}")
    print(f"turns of {settings.turn} steps, seed {settings.seed}\n")
    found = measure(settings)
    found.print("a Boss on a GPU" if settings.device == "cuda" else "the script tried on a CPU", known())
    if settings.json is not None:
        found.write(settings.json, settings)


if __name__ == "__main__":
    main(tyro.cli(GpuBenchmark))
