"""What the feed costs the Boss, beside a plain loop in the same run, taking turns. No GPU is needed.

* A step of ``--step-ms`` without a model: the feed and the report on the training thread, by turns of ``--turn`` steps
  with a plain loop that takes its IDs from a list and the mean of its losses. Wall time, so what it waits for the
  interpreter is in it, with the thread's CPU time beside it. Step about, each would find its code as cold as after two
  steps, as in nobody's training. On ``--device cuda`` a report that waits for the device is an error.
* Every batch through the system, policy uniform, against a plain DataLoader with the same data, batch size and workers,
  epoch about: with the small CNN of fashion-mnist, and with no model at all, where loading is all that is done.
* An Assistant's learning and scoring, as CPU time of this process on one core, beside the Boss's own step of that CNN.

    python -m benchmarks.boss_overhead [--json FILE]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.boss_pass_all import pass_all
from benchmarks.boss_roles import Spin, batches, boss, broker
from benchmarks.boss_share import assistant_share
from benchmarks.common import machine
from benchmarks.figures import Figure, Figures
from boss.feed import Feed
from protocol.settings import RunSettings

WARM_UP = 50
"""Steps that are not counted."""
BURSTS = 50


@dataclass(frozen=True, kw_only=True)
class OverheadBenchmark:
    """Settings of the benchmark."""

    step_ms: float = 5.0
    """Length of a step without a model."""

    steps: int = 1000
    """Of these, a repetition, whole turns; as many plain ones between them."""

    turn: int = 25
    """Steps in a row, of one kind."""

    batch_size: int = 128
    """Instances per batch."""

    batches: int = 80
    """In an epoch through the DataLoaders."""

    learned: int = 200
    """Loss records of an Assistant, a repetition."""

    repetitions: int = 3
    """Repetitions of each, in turn."""

    seed: int = 1
    """Of the run, the data, and the CNN."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where the losses of the steps without a model are."""

    json: Path | None = None
    """File for the figures: medians, and all values under their names."""


KNOWN = {
    "feed_p50_us": Figure("the next batch, p50, µs", "", ".1f"),
    "report_p50_us": Figure("its report, p50, µs", "", ".1f"),
    "p50_us": Figure("both, p50, µs", "< 20 (CUDA < 60)", ".1f"),
    "warm_p50_us": Figure("both without a step between them, its code in the caches, p50, µs", "", ".1f"),
    "p99_us": Figure("both, p99, µs", "< 200", ".0f"),
    "plain_p50_us": Figure("plain loop: the next IDs and the mean, p50, µs", "", ".1f"),
    "plain_p99_us": Figure("plain loop, p99, µs", "", ".0f"),
    "cpu_p50_us": Figure("both by CPU time, p50, µs", "", ".1f"),
    "plain_cpu_p50_us": Figure("plain loop by CPU time, p50, µs", "", ".1f"),
    "step_share_percent": Figure("both, mean, % of a step", "< 1"),
    "added_share_percent": Figure("what that is more than the plain loop's, % of a step", ""),
    "cnn_ratio_0": Figure("CNN, no workers: instances/s, feed : plain DataLoader", "≥ 0.97", ".3f"),
    "cnn_ratio_2": Figure("CNN, 2 workers", "≥ 0.97", ".3f"),
    "bare_ratio_0": Figure("no model, no workers", "", ".3f"),
    "bare_ratio_2": Figure("no model, 2 workers", "", ".3f"),
    "cnn_per_s_0": Figure("CNN, no workers, through the feed: instances/s", "", ".0f"),
    "bare_per_s_0": Figure("no model, no workers, through the feed: instances/s", "", ".0f"),
    "boss_step_ms": Figure("Boss's step of the CNN, CPU time, ms"),
    "first_learn_us": Figure("Assistant learns from its losses in the first epoch, CPU time, µs", "", ".0f"),
    "first_learn_percent": Figure("that, % of the step", ""),
    "learn_us": Figure("the same in later epochs, µs", "", ".0f"),
    "learn_percent": Figure("that, % of the step", "< 2"),
    "bosses_by_learning": Figure("Bosses that one core's learning keeps up with", "≥ 25", ".0f"),
    "score_us": Figure("Assistant scores what a batch is cut from, CPU time, µs", "", ".0f"),
    "code_us": Figure("it decodes and codes what is said for it, CPU time, µs", "", ".0f"),
    "bosses": Figure("Bosses that one core keeps up with, all three counted", "≥ 25", ".0f"),
}


class Timed(NamedTuple):
    """Of one step, in microseconds."""

    feed: float
    report: float
    cpu: float
    """The thread's, for both."""

    @property
    def both(self) -> float:
        """The next batch and its report."""
        return self.feed + self.report


def overhead(settings: OverheadBenchmark) -> dict[str, float]:
    """One repetition of the steps without a model."""
    spin, n = Spin.small(), 1000 * settings.batch_size
    ours: list[Timed] = []
    plain: list[Timed] = []
    with broker() as address, boss(address, n=n, batch_size=settings.batch_size, policy="uniform") as feed:
        w = torch.ones(settings.batch_size, device=settings.device, requires_grad=True)
        of_feed, of_list, report = batches(feed), _listed(settings.batch_size), reporting(feed)
        for _ in range((settings.steps + WARM_UP) // settings.turn):
            ours += _turn(settings, of_feed, report, w)
            plain += _turn(settings, of_list, torch.Tensor.mean, w)
        warm = [one.both for _ in range(BURSTS) for one in _burst(spin, of_feed, report, w)]
    return {**figures(settings, ours[WARM_UP:], plain[WARM_UP:]), "warm_p50_us": statistics.median(warm)}


def _turn(
    settings: OverheadBenchmark,
    source: Iterator[list[int]],
    report: Callable[[torch.Tensor], torch.Tensor],
    w: torch.Tensor,
) -> list[Timed]:
    spin, found = Spin.small(), []
    for _ in range(settings.turn):
        spin(settings.step_ms / 1e3)
        found.append(timed(source, report, w))
    return found


def _burst(
    spin: Spin, source: Iterator[list[int]], report: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor
) -> list[Timed]:
    """Steps right after one another, as many as the prefetch has ready, without the first two."""
    spin(0.01)
    return [timed(source, report, w) for _ in range(RunSettings().prefetch_batches - 2)][2:]


def _listed(batch_size: int) -> Iterator[list[int]]:
    order = np.random.default_rng(1).permutation(1000 * batch_size).reshape(-1, batch_size)
    while True:
        for row in order:
            yield row.tolist()


def reporting(feed: Feed) -> Callable[[torch.Tensor], torch.Tensor]:
    """The feed's report; on a GPU one that may not wait for it."""

    def report(losses: torch.Tensor) -> torch.Tensor:
        if not losses.is_cuda:
            return feed.report(losses)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return feed.report(losses)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return report


def timed(source: Iterator[list[int]], report: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor) -> Timed:
    """The next batch and its report; the losses and their gradient are not counted."""
    cpu, start = time.thread_time(), time.perf_counter()
    ids = next(source)
    fed, cpu_fed = time.perf_counter(), time.thread_time()
    losses = w[: len(ids)] * 2.0
    cpu_again, again = time.thread_time(), time.perf_counter()
    mean = report(losses)
    end, cpu_end = time.perf_counter(), time.thread_time()
    mean.backward()  # type: ignore[no-untyped-call]
    return Timed(1e6 * (fed - start), 1e6 * (end - again), 1e6 * (cpu_fed - cpu + cpu_end - cpu_again))


def figures(settings: OverheadBenchmark, ours: Sequence[Timed], plain: Sequence[Timed]) -> dict[str, float]:
    """Those of a repetition by name."""
    of_step = 0.1 / settings.step_ms  # a microsecond, in % of a step
    both, plain_both = [one.both for one in ours], [one.both for one in plain]
    mean, plain_mean = statistics.fmean(both), statistics.fmean(plain_both)
    return {
        "feed_p50_us": statistics.median(one.feed for one in ours),
        "report_p50_us": statistics.median(one.report for one in ours),
        "p50_us": statistics.median(both),
        "p99_us": float(np.quantile(both, 0.99)),
        "plain_p50_us": statistics.median(plain_both),
        "plain_p99_us": float(np.quantile(plain_both, 0.99)),
        "cpu_p50_us": statistics.median(one.cpu for one in ours),
        "plain_cpu_p50_us": statistics.median(one.cpu for one in plain),
        "step_share_percent": of_step * mean,
        "added_share_percent": of_step * (mean - plain_mean),
    }


def measure(settings: OverheadBenchmark) -> Figures:
    """All of it, in turn."""
    found = Figures()
    for _ in range(settings.repetitions):
        found.note(**overhead(settings))
        found.note(**pass_all(settings.batches, settings.batch_size, settings.seed))
        found.note(**assistant_share(settings.learned, settings.batch_size, settings.seed))
    return found


def main(settings: OverheadBenchmark) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(machine())
    print(f"batches of {settings.batch_size}, seed {settings.seed}, one torch thread, losses on {settings.device}\n")
    found = measure(settings)
    found.print(f"feed and report, a step of {settings.step_ms:g} ms", KNOWN)
    if settings.json is not None:
        found.write(settings.json, settings)


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # NumPy looks at it when it is imported
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.boss_overhead", *sys.argv[1:]], one_thread)
    main(tyro.cli(OverheadBenchmark))
