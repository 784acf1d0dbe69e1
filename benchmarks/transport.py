"""The broker's cycles per second, latency and CPU time, beside peers that decide nothing, in one run. No model.

A cycle is a batch with its selection, its loss report, the acknowledgement and the record at the Assistant, through a
real broker process with its run store on disk. The peers: a ROUTER loop in Python that reads and writes the same
messages; a relay that only moves the bytes of batch and report; torch.multiprocessing.Queue. All take turns in one run.

On a machine that does other work too, compare CPU time: it is the broker process's own, user and system.

    python -m benchmarks.transport
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
import torch
import tyro

from benchmarks.common import machine, print_table, spread
from benchmarks.transport_peers import router_loop, through_channel, through_queue, through_relay
from benchmarks.transport_roles import ScriptedRoles
from boss.feed import Feed

WARM_UP_S = 5
"""Before CPU time is counted at a slow pace: the first epoch is not filtered, and the Assistant has to join."""


@dataclass(frozen=True, kw_only=True)
class TransportBenchmark:
    """Settings of the benchmark."""

    batches: int = 5_000
    """Cycles per repetition."""

    batch_size: int = 128
    """Instances per batch."""

    credit: int = 32
    """Batches that may be on their way."""

    repetitions: int = 3
    """Repetitions of each, in turn."""

    latency_cycles_per_s: int = 2000
    """Pace at which the latency is measured, over twice as many cycles."""

    paced_steps_per_s: int = 100
    """Pace at which the broker's CPU time a step is measured, with a Feed and a real Assistant."""

    paced_s: int = 10
    """For how long."""

    json: Path | None = None
    """File for the figures: medians, and all values under their names."""


@dataclass(frozen=True)
class Measured:
    """One repetition of one peer."""

    cycles_per_s: float
    cpu_us: float
    """CPU time of the peer's process, a cycle."""
    latencies_ms: list[float]


@contextmanager
def broker(keys: Path | None = None) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a broker that ends with its run."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autoassist", "broker", "--run-dir", folder, "--port", "0", "--announce"]
        words += ["--keys", str(keys)] if keys is not None else []
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            yield msgspec.json.decode(process.stdout.readline())["address"], psutil.Process(process.pid)
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _measure(
    address: str, process: psutil.Process, settings: TransportBenchmark, *, pace: int = 0, keys: Path | None = None
) -> Measured:
    roles = ScriptedRoles(
        address,
        settings.batches,
        settings.batch_size,
        settings.credit,
        pace,
        keys=str(keys) if keys is not None else None,
    )
    before = _cpu_s(process)
    rate = roles.run()
    cpu_us = (_cpu_s(process) - before) / settings.batches * 1e6
    roles.close()
    return Measured(rate, cpu_us, [1000 * s for s in roles.latencies_s[len(roles.latencies_s) // 10 :]])


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def through_broker(settings: TransportBenchmark, *, pace: int = 0, keys: Path | None = None) -> Measured:
    """Whole cycles through a broker process."""
    with broker(keys) as (address, process):
        return _measure(address, process, settings, pace=pace, keys=keys)


def through_router(settings: TransportBenchmark) -> Measured:
    """The same messages through a loop that decides nothing."""
    with router_loop(settings.batch_size) as (address, process):
        return _measure(address, process, settings)


def cpu_ms_per_step(settings: TransportBenchmark) -> float:
    """CPU time of the broker process per step, with an Assistant that filters, at a fixed pace of the Boss."""
    with broker() as (address, process):
        words = [sys.executable, "-m", "autoassist", "assistant", "--broker", address]
        assistant = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        feed = Feed.connect(address, n=20_000, batch_size=64, epochs=1000)
        losses = torch.rand(64) * 2
        before = 0.0
        for step, size in enumerate(_paced(feed, settings.paced_steps_per_s)):
            if step == settings.paced_steps_per_s * WARM_UP_S:
                before = _cpu_s(process)
            feed.report(losses[:size])
            if step == settings.paced_steps_per_s * (WARM_UP_S + settings.paced_s):
                break
        spent_s = _cpu_s(process) - before
        feed.close()
        assistant.wait(30)
    return 1000 * spent_s / (settings.paced_steps_per_s * settings.paced_s)


def _paced(feed: Feed, steps_per_s: int) -> Iterator[int]:
    """Sizes of the batches, one by one, at a fixed pace."""
    pace, due = threading.Event(), time.monotonic()
    while not feed.ended:
        for ids in feed:
            pace.wait(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic() - 1.0) + 1.0 / steps_per_s
            yield len(ids)


def start_time_s() -> float:
    """Seconds from starting a broker process until it listens."""
    start = time.perf_counter()
    with broker() as (_, process):
        elapsed = time.perf_counter() - start
        process.terminate()
    return elapsed


def _make_keys(folder: str) -> Path:
    keys = Path(folder) / "keys"
    words = [sys.executable, "-m", "autoassist", "keys", "init", str(keys)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return keys


def measure(settings: TransportBenchmark) -> dict[str, list[float]]:
    """All values by name, one for each repetition."""
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        keys = _make_keys(folder)
        for _ in range(settings.repetitions):
            ours, bare = through_broker(settings), through_router(settings)
            keyed = through_broker(settings, keys=keys)
            longer = replace(settings, batches=2 * settings.batches)
            paced = through_broker(longer, pace=settings.latency_cycles_per_s)
            relay = through_relay(settings.batches, settings.batch_size, settings.credit)
            queue = through_queue(settings.batches, settings.batch_size)
            channel = through_channel(settings.batches, settings.batch_size)
            note(cycles_per_s=ours.cycles_per_s, cpu_us_per_cycle=ours.cpu_us)
            note(router_cycles_per_s=bare.cycles_per_s, router_cpu_us_per_cycle=bare.cpu_us)
            note(ratio_to_router=ours.cycles_per_s / bare.cycles_per_s, ratio_to_router_cpu=bare.cpu_us / ours.cpu_us)
            note(relay_batches_per_s=relay, ratio_to_relay=ours.cycles_per_s / relay)
            note(keyed_cycles_per_s=keyed.cycles_per_s, ratio_keyed=keyed.cycles_per_s / ours.cycles_per_s)
            note(ratio_keyed_cpu=ours.cpu_us / keyed.cpu_us)
            quantiles = np.quantile(paced.latencies_ms, [0.5, 0.99, 0.999])
            note(p50_ms=quantiles[0], p99_ms=quantiles[1], p99_9_ms=quantiles[2], latency_pace=paced.cycles_per_s)
            note(queue_batches_per_s=queue, channel_batches_per_s=channel, ratio_to_queue=channel / queue)
            note(cpu_ms_per_paced_step=cpu_ms_per_step(settings))
            note(start_s=start_time_s())
    return found


def rows_of(found: dict[str, list[float]], settings: TransportBenchmark) -> list[list[str]]:
    """The table."""
    pace = statistics.median(found["latency_pace"])
    names = {
        "cycles_per_s": ("broker: full cycles/s, with the run store", ".0f"),
        "router_cycles_per_s": ("bare ROUTER loop: the same messages, cycles/s", ".0f"),
        "ratio_to_router": ("ratio broker : ROUTER loop", ".2f"),
        "cpu_us_per_cycle": ("broker's CPU a cycle, µs", ".0f"),
        "router_cpu_us_per_cycle": ("ROUTER loop's CPU a cycle, µs", ".0f"),
        "ratio_to_router_cpu": ("ratio by CPU time", ".2f"),
        "relay_batches_per_s": ("relay of the bytes of batch and report, batches/s", ".0f"),
        "ratio_to_relay": ("ratio broker : relay", ".2f"),
        "ratio_keyed": ("with keys (CURVE) : without, cycles/s", ".2f"),
        "ratio_keyed_cpu": ("the same by CPU time", ".2f"),
        "p50_ms": (f"latency of a cycle at {pace:.0f} cycles/s, p50, ms", ".2f"),
        "p99_ms": ("p99, ms", ".2f"),
        "p99_9_ms": ("p99.9, ms", ".2f"),
        "queue_batches_per_s": ("torch.multiprocessing.Queue: batches/s, one direction", ".0f"),
        "channel_batches_per_s": ("coded and by ZeroMQ, as the broker sends them: batches/s", ".0f"),
        "ratio_to_queue": ("ratio ZeroMQ : Queue", ".2f"),
        "start_s": ("broker process listens after, s", ".2f"),
        "cpu_ms_per_paced_step": (
            f"broker's CPU a step at {settings.paced_steps_per_s} steps/s, with an Assistant, ms",
            ".2f",
        ),
    }
    return [[words, spread(found[name], form)] for name, (words, form) in names.items()]


def write(path: Path, found: dict[str, list[float]], settings: TransportBenchmark) -> None:
    """Medians by name; all values, the machine and the settings beside them."""
    medians = {name: float(statistics.median(values)) for name, values in found.items()}
    given = {name: value for name, value in asdict(settings).items() if name != "json"}
    beside = {"machine": machine(), "settings": given, "values": {k: [float(v) for v in vs] for k, vs in found.items()}}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(medians | beside), indent=2) + b"\n")


def main(settings: TransportBenchmark) -> None:
    """Measure and print."""
    print(machine())
    print(f"{settings.batches} cycles, {settings.batch_size} IDs a batch, credit {settings.credit}\n")
    gc.collect()
    gc.freeze()  # what is imported here is much, and looking through it would be counted as the broker's latency
    found = measure(settings)
    print_table(["transport", "median (least … greatest)"], rows_of(found, settings))
    if settings.json is not None:
        write(settings.json, found, settings)


if __name__ == "__main__":
    main(tyro.cli(TransportBenchmark))
