"""What it costs to be watched: a Boss without a model at a fixed pace, with everything on and with everything off.

Watched is: /metrics on broker and Boss, scraped every second; TensorBoard's curves; `autoassist top --json` and the
page (`autoassist monitor`, where it is installed) on the statistics socket. Both kinds alternate in one run. The share
of the Boss's time is of its training thread, which is what a step waits for; CPU is of one core, of all processes
together, the one that plays Prometheus left out. The statistics themselves, twice a second, cannot be turned off: what
making and rendering them takes is measured by itself.

    python -m benchmarks.monitoring
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import psutil
import torch
import tyro

from autoassist.curves import CurveSettings, can_draw, drawing, of_boss
from autoassist.exporting import exporting
from autoassist.monitor_command import NEEDED
from benchmarks.common import machine, print_table, spread
from boss import watch
from boss.feed import Feed
from broker.core import BrokerCore
from broker.hub import Hub
from broker.monitor import render
from broker.report import build_statistics
from broker.store import RunStore
from protocol.exporter import ExporterSettings
from protocol.role_metrics import BOSS_METRICS
from protocol.statistics import encode_statistics

SCRAPE = "import sys, time, urllib.request\nwhile True:\n    for url in sys.argv[1:]:\n        urllib.request.urlopen(url).read()\n    time.sleep(1.0)"  # noqa: E501
PER_S = 2
"""Statistics in a second."""


@dataclass(frozen=True, kw_only=True)
class MonitoringBenchmark:
    """Settings of the benchmark."""

    steps_per_s: int = 1000
    """Pace of the Boss."""

    seconds: float = 20.0
    """For how long each time, after the warm-up."""

    warm_up_s: float = 10.0
    """Before anything is counted: those who watch have to start."""

    repetitions: int = 5
    """Of each kind, in turn."""

    batch_size: int = 64
    """Instances per batch."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one repetition."""

    thread_us: float
    """CPU time of the training thread a step."""
    cores: float
    """CPU time of Boss, broker and watchers in a second."""
    paced: float
    """Steps a second that were trained, of those that were wanted."""
    statistics_ms: float
    """What making, encoding and rendering the statistics takes, once."""


@contextmanager
def process(words: Sequence[str]) -> Iterator[psutil.Popen]:
    """A process that is gone afterwards."""
    made = psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield made
    finally:
        made.kill()
        made.wait(30)
        made.stdout.close()


def command(*words: str) -> list[str]:
    """``autoassist …``"""
    return [sys.executable, "-m", "autoassist", *words]


def measure(settings: MonitoringBenchmark, *, watched: bool) -> Cost:
    """One repetition."""
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        port = ["--http-port", "0"] if watched else []
        words = command("broker", "--run-dir", f"{folder}/run", "--port", "0", "--announce", *port)
        broker = opened.enter_context(process(words))
        addresses = msgspec.json.decode(broker.stdout.readline())
        run = {"batch_size": settings.batch_size, "policy": "uniform", "epochs": 1000}
        feed = opened.enter_context(closing(Feed.connect(addresses["address"], n=200_000, **run)))
        counted = [psutil.Process(), broker]
        if watched:
            counted += opened.enter_context(_watchers(feed, addresses, Path(folder)))
        thread_s, cores, steps = _train(settings, feed, counted)
        return Cost(
            thread_us=1e6 * thread_s / steps,
            cores=cores,
            paced=steps / settings.seconds / settings.steps_per_s,
            statistics_ms=_statistics_ms(Path(folder) / "run"),
        )


@contextmanager
def _watchers(feed: Feed, addresses: dict[str, str], folder: Path) -> Iterator[list[psutil.Process]]:
    """Everything that watches; gives the processes that count."""
    with ExitStack() as opened:
        look, turned_at = partial(watch.statistics_of, feed), partial(watch.turned_at, feed)
        port = ExporterSettings(http_port=0)
        own = opened.enter_context(exporting(port, "Boss", BOSS_METRICS, look, turned_at))
        curves = CurveSettings(tensorboard=folder / "curves" if can_draw() else None)
        opened.enter_context(drawing(curves, "boss-0", look, of_boss))
        opened.enter_context(process([sys.executable, "-c", SCRAPE, f"{addresses['http']}/metrics", f"{own}/metrics"]))
        found = [opened.enter_context(_drained(command("top", addresses["statistics"], "--json")))]
        if all(map(_is_installed, NEEDED)):
            page = command("monitor", addresses["statistics"], "--port", "0")
            found.append(opened.enter_context(_drained(page)))
        yield found


@contextmanager
def _drained(words: Sequence[str]) -> Iterator[psutil.Process]:
    """A process whose output somebody reads."""
    with process(words) as made:
        threading.Thread(target=lambda: [None for _ in made.stdout], daemon=True).start()
        yield made


def _is_installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _train(settings: MonitoringBenchmark, feed: Feed, counted: list[psutil.Process]) -> tuple[float, float, int]:
    """CPU seconds of the training thread, cores in use, and steps; after the warm-up."""
    losses, pace = torch.rand(settings.batch_size) * 2, threading.Event()
    begin = time.monotonic() + settings.warm_up_s
    due, thread_s, cpu_s, steps, is_counting = time.monotonic(), 0.0, 0.0, 0, False
    while not feed.ended:
        for ids in feed:
            now = time.monotonic()
            if not is_counting and now >= begin:
                is_counting, thread_s, cpu_s = True, time.thread_time(), _cpu_s(counted)
            if now >= begin + settings.seconds:
                seconds = now - begin
                return time.thread_time() - thread_s, (_cpu_s(counted) - cpu_s) / seconds, steps
            feed.report(losses[: len(ids)])
            steps += is_counting
            due = max(due + 1.0 / settings.steps_per_s, now - 0.1)
            if due > now:
                pace.wait(due - now)
    raise AssertionError("the run has ended before it was measured; lower --seconds")


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def _statistics_ms(run_dir: Path) -> float:
    """Of the run as it stands in its store, on this core, by itself."""
    with closing(RunStore(run_dir, writable=False)) as store:
        core, hub = BrokerCore.from_rows("", store.rows()), Hub()
    times = []
    for _ in range(50):
        before = time.thread_time()
        made = build_statistics(core, hub, time.monotonic())
        encode_statistics(made)
        render(made)
        times.append(time.thread_time() - before)
    return 1e3 * statistics.median(times)


def main(settings: MonitoringBenchmark) -> None:
    """Measure and print."""
    kinds: dict[bool, list[Cost]] = {False: [], True: []}
    for _ in range(settings.repetitions):
        for watched, costs in kinds.items():
            costs.append(measure(settings, watched=watched))
    off, on = kinds[False], kinds[True]
    share = [100 * (a.thread_us - b.thread_us) * settings.steps_per_s / 1e6 for a, b in zip(on, off, strict=True)]
    cores = [100 * (a.cores - b.cores) for a, b in zip(on, off, strict=True)]
    made = [cost.statistics_ms for cost in (*on, *off)]
    print(
        f"{machine()}; {settings.steps_per_s} steps/s wanted, {settings.repetitions} × {settings.seconds:g} s of each\n"
    )
    rows = [
        ["training thread a step, µs: watched", spread([c.thread_us for c in on], ".1f")],
        ["training thread a step, µs: not", spread([c.thread_us for c in off], ".1f")],
        ["difference, % of the Boss's time", spread(share)],
        ["cores in use: watched", spread([c.cores for c in on])],
        ["cores in use: not", spread([c.cores for c in off])],
        ["difference, % of one core", spread(cores, ".1f")],
        ["statistics made and rendered, ms", spread(made)],
        [f"the same {PER_S} times a second, % of one core", spread([PER_S * ms / 10 for ms in made])],
        ["pace kept: watched, not", f"{min(c.paced for c in on):.2f}, {min(c.paced for c in off):.2f}"],
    ]
    print_table(["being watched", "median (least … greatest)"], rows)


if __name__ == "__main__":
    main(tyro.cli(MonitoringBenchmark))
