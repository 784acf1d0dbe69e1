"""What it costs to be watched: a Boss without a model at a fixed pace, in one run, with everything on and off in turns.

Watched is: /metrics of broker and Boss, scraped every second; TensorBoard's curves; `autoassist top --json` and the
page (`autoassist monitor`, where it is installed, with a browser's stream open) on the statistics socket. What is
counted of a turn begins some seconds after all of them stand. Turns are compared with their neighbours, so that what
else the machine does meanwhile cancels out as far as it lasts.

* The Boss's share is the time that its training thread spends between two waits for its pace, so what it waits for the
  interpreter is in it; the thread's CPU time stands beside it.
* CPU is of one core, of Boss, broker and watchers together; those that play Prometheus and the browser are left out.
* The statistics themselves, twice a second, cannot be turned off: what making and rendering them takes is measured by
  itself, and is in both kinds of turns.

    python -m benchmarks.monitoring [--json FILE]
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import psutil
import torch
import tyro

from autoassist.curves import CurveSettings, can_draw, drawing, of_boss
from autoassist.exporting import exporting
from autoassist.monitor_command import packages_missing
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
BROWSE = "import sys, time, urllib.request\nfor _ in range(100):\n    try:\n        [0 for _ in urllib.request.urlopen(sys.argv[1])]\n    except OSError:\n        time.sleep(0.2)"  # noqa: E501
PER_S = 2
"""Statistics in a second."""


@dataclass(frozen=True, kw_only=True)
class MonitoringBenchmark:
    """Settings of the benchmark."""

    steps_per_s: int = 1000
    """Pace of the Boss."""

    seconds: float = 10.0
    """That are counted of each turn."""

    settle_s: float = 3.0
    """At a turn's beginning, once those who watch stand, not counted."""

    pairs: int = 6
    """Watched turns, each between two others."""

    batch_size: int = 64
    """Instances per batch."""

    json: Path | None = None
    """File that gets all turns, as JSON."""


class Turn(msgspec.Struct, kw_only=True):
    """What was counted in one turn."""

    watched: bool
    steps: int
    busy_us: float  # of the training thread between two waits for its pace, a step
    thread_us: float  # its CPU time, a step
    cores: float  # CPU time of Boss, broker and watchers in a second
    paced: float  # steps that were trained, of those that were wanted


class Result(msgspec.Struct, kw_only=True):
    """All turns, and what they say: medians over neighbours, least and greatest."""

    machine: str
    steps_per_s: int
    turns: list[Turn]
    boss_share_percent: list[float]
    thread_share_percent: list[float]
    core_percent: list[float]
    statistics_ms: float


@dataclass
class Pace:
    """The training loop of a Boss without a model: a step when it is due, and what the thread spends on it."""

    feed: Feed
    steps_per_s: int
    losses: torch.Tensor

    def train(self, until: float) -> tuple[int, float]:
        """Train to this time; returns steps and the seconds in which the thread did not wait for its pace."""
        pace, waited_s, began = threading.Event(), 0.0, time.monotonic()
        due = began
        for steps, ids in enumerate(self._batches(), start=1):
            self.feed.report(self.losses[: len(ids)])
            now = time.monotonic()
            if now >= until:
                return steps, now - began - waited_s
            due = max(due + 1.0 / self.steps_per_s, now - 0.1)
            if due > now:
                pace.wait(due - now)
                waited_s += time.monotonic() - now
        raise AssertionError("the run has ended before it was measured; lower --seconds")

    def _batches(self) -> Iterator[list[int]]:
        while not self.feed.ended:
            yield from self.feed


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


def measure(settings: MonitoringBenchmark) -> Result:
    """One run, turn after turn."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        words = command("broker", "--run-dir", f"{folder}/run", "--port", "0", "--announce", "--http-port", "0")
        broker = opened.enter_context(process(words))
        addresses = msgspec.json.decode(broker.stdout.readline())
        address, batch_size = addresses["address"], settings.batch_size
        joined = Feed.connect(address, n=200_000, batch_size=batch_size, policy="uniform", epochs=10_000)
        feed = opened.enter_context(closing(joined))
        pace = Pace(feed, settings.steps_per_s, torch.rand(settings.batch_size) * 2)
        turns = []
        for number in range(2 * settings.pairs + 1):
            watchers = partial(_watchers, feed, addresses, Path(folder) / f"curves-{number}")
            turns.append(_turn(settings, pace, [psutil.Process(), broker], watchers if number % 2 else None))
        return _result(settings, turns, _statistics_ms(Path(folder) / "run"))


def _turn(
    settings: MonitoringBenchmark,
    pace: Pace,
    counted: list[psutil.Process],
    watchers: Callable[[], AbstractContextManager[Watchers]] | None,
) -> Turn:
    with ExitStack() as opened:
        if watchers is not None:
            there = opened.enter_context(watchers())
            counted = counted + there.processes
            while not there.stand:
                pace.train(time.monotonic() + 0.5)
        pace.train(time.monotonic() + settings.settle_s)
        began, thread_s, cpu_s = time.monotonic(), time.thread_time(), _cpu_s(counted)
        steps, busy_s = pace.train(began + settings.seconds)
        seconds = time.monotonic() - began
        return Turn(
            watched=watchers is not None,
            steps=steps,
            busy_us=1e6 * busy_s / steps,
            thread_us=1e6 * (time.thread_time() - thread_s) / steps,
            cores=(_cpu_s(counted) - cpu_s) / seconds,
            paced=steps / seconds / settings.steps_per_s,
        )


@dataclass
class Watchers:
    """Those who watch."""

    processes: list[psutil.Process]
    """That count."""
    standing: list[threading.Event]
    """Set once the process of this place has said its first word."""

    @property
    def stand(self) -> bool:
        """Whether all do."""
        return all(one.is_set() for one in self.standing)


@contextmanager
def _watchers(feed: Feed, addresses: dict[str, str], curves: Path) -> Iterator[Watchers]:
    """Everything that watches, a browser among it."""
    with ExitStack() as opened:
        look, turned_at = partial(watch.statistics_of, feed), partial(watch.turned_at, feed)
        port = ExporterSettings(http_port=0)
        own = opened.enter_context(exporting(port, "Boss", BOSS_METRICS, look, turned_at))
        drawn = CurveSettings(tensorboard=curves if can_draw() else None)
        opened.enter_context(drawing(drawn, "boss-0", look, of_boss))
        opened.enter_context(process([sys.executable, "-c", SCRAPE, f"{addresses['http']}/metrics", f"{own}/metrics"]))
        words = [command("top", addresses["statistics"], "--json")]
        if not packages_missing():
            with socket.create_server(("127.0.0.1", 0)) as free:
                page = str(free.getsockname()[1])
            words.append(command("monitor", addresses["statistics"], "--port", page, "--announce"))
            opened.enter_context(process([sys.executable, "-c", BROWSE, f"http://127.0.0.1:{page}/events"]))
        found = [opened.enter_context(_drained(one)) for one in words]
        yield Watchers([one for one, _ in found], [event for _, event in found])


@contextmanager
def _drained(words: Sequence[str]) -> Iterator[tuple[psutil.Process, threading.Event]]:
    """A process whose output somebody reads, and whether there was some."""
    spoke = threading.Event()

    def listen(made: psutil.Popen) -> None:
        for _ in made.stdout:
            spoke.set()

    with process(words) as made:
        threading.Thread(target=listen, args=(made,), daemon=True).start()
        yield made, spoke


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


def differences(turns: Sequence[Turn], name: str) -> list[float]:
    """Of each watched turn, how much more than the mean of the turns beside it in which nobody watched."""
    found = []
    for place, turn in enumerate(turns):
        beside = [getattr(other, name) for other in turns[max(0, place - 1) : place + 2] if not other.watched]
        if turn.watched and beside:
            found.append(getattr(turn, name) - statistics.fmean(beside))
    return found


def _result(settings: MonitoringBenchmark, turns: list[Turn], statistics_ms: float) -> Result:
    of_boss_time = 1e-4 * settings.steps_per_s  # a microsecond a step, in % of its time
    return Result(
        machine=machine(),
        steps_per_s=settings.steps_per_s,
        turns=turns,
        boss_share_percent=[of_boss_time * us for us in differences(turns, "busy_us")],
        thread_share_percent=[of_boss_time * us for us in differences(turns, "thread_us")],
        core_percent=[100 * cores for cores in differences(turns, "cores")],
        statistics_ms=statistics_ms,
    )


def print_result(result: Result) -> None:
    """For a person."""
    on, off = ([turn for turn in result.turns if turn.watched is kind] for kind in (True, False))
    print(f"{result.machine}; {result.steps_per_s} steps/s wanted, {len(on)} turns watched, {len(off)} not\n")
    per_s = PER_S * result.statistics_ms / 10
    rows = [
        ["training thread a step, µs: watched", spread([t.busy_us for t in on], ".1f")],
        ["training thread a step, µs: not", spread([t.busy_us for t in off], ".1f")],
        ["difference, % of the Boss's time", spread(result.boss_share_percent)],
        ["the same by its CPU time", spread(result.thread_share_percent)],
        ["cores in use: watched", spread([t.cores for t in on])],
        ["cores in use: not", spread([t.cores for t in off])],
        ["difference, % of one core", spread(result.core_percent, ".1f")],
        [f"statistics made and rendered {PER_S} times a second, % of one core", f"{per_s:.2f}"],
        ["pace kept (least): watched, not", f"{min(t.paced for t in on):.2f}, {min(t.paced for t in off):.2f}"],
    ]
    print_table(["being watched", "median (least … greatest)"], rows)


def main(settings: MonitoringBenchmark) -> None:
    """Measure and print."""
    result = measure(settings)
    print_result(result)
    if settings.json is not None:
        settings.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))


if __name__ == "__main__":
    main(tyro.cli(MonitoringBenchmark))
