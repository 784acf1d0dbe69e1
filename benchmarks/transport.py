"""Batches and loss reports per second through the broker, beside a bare ZeroMQ relay, in one run. No model.

The Boss here trains nothing: it answers each batch with a loss report at once, with the same credit for both. The relay
receives the same bytes and sends the same bytes back, and does nothing else: no plan, no store, no acknowledgement.

    python -m benchmarks.transport
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import msgspec
import numpy as np
import psutil
import torch
import tyro
import zmq

from benchmarks.common import machine, print_table, spread
from boss.feed import Feed
from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.codec import encode
from protocol.messages import Batch, Credit, Envelope, EpochEnd, Goodbye, Hello, LossReport, Segment
from protocol.settings import RunSettings

WARM_UP_S = 5
"""Before CPU time is counted: the first epoch is not filtered, and the Assistant has to join."""


@dataclass(frozen=True, kw_only=True)
class TransportBenchmark:
    """Settings of the benchmark."""

    batches: int = 20_000
    """Batches per repetition."""

    batch_size: int = 64
    """Instances per batch."""

    credit: int = 32
    """Batches that may be on their way."""

    repetitions: int = 3
    """Repetitions of each, in turn."""

    paced_steps_per_s: int = 100
    """Pace at which the broker's CPU time is measured."""

    paced_s: int = 10
    """For how long."""


def through_broker(settings: TransportBenchmark) -> float:
    """Batches per second, each with its loss report, through a real broker process."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autoassist", "broker", "--run-dir", folder, "--port", "0", "--announce"]
        broker = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert broker.stdout is not None
        address = msgspec.json.decode(broker.stdout.readline())["address"]
        rate = _drive(settings, address)
        broker.wait(30)
        broker.stdout.close()
    return rate


def _drive(settings: TransportBenchmark, address: str) -> float:
    total = settings.batches * settings.batch_size
    run = RunSettings(policy="uniform", boss_instances=total, batch_size=settings.batch_size)
    hello = Hello(
        role="boss", name="boss-0", incarnation=new_incarnation(), dataset_id="none", n=1_000_000, settings=run
    )
    client = RoleClient(hello, ConnectSettings(broker=address))
    losses = np.ones(settings.batch_size, dtype=np.float32)
    start, done = 0.0, False
    while not done:
        for message in client.poll(1.0):
            if isinstance(message, Batch):
                start = start or time.perf_counter()
                client.send(LossReport(step=message.step, through=message.step, rank=0, losses=losses))
                client.send(Credit(limit=message.step + settings.credit, yielded=message.step))
            done = done or (isinstance(message, EpochEnd) and message.last)
        if start == 0.0 and client.is_open:
            client.send(Credit(limit=settings.credit, yielded=-1))
    client.drain(30.0)
    rate = settings.batches / (time.perf_counter() - start)
    client.send(Goodbye(reason="finished"))
    client.drain(10.0)
    client.close()
    return rate


def cpu_ms_per_step(settings: TransportBenchmark) -> float:
    """CPU time of the broker process per step, with an Assistant that filters, at a fixed pace of the Boss."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autoassist", "broker", "--run-dir", folder, "--port", "0", "--announce"]
        broker = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert broker.stdout is not None
        address = msgspec.json.decode(broker.stdout.readline())["address"]
        words = [sys.executable, "-m", "autoassist", "assistant", "--broker", address]
        assistant = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        feed = Feed.connect(address, n=20_000, batch_size=settings.batch_size, epochs=1000)
        process, losses = psutil.Process(broker.pid), torch.rand(settings.batch_size) * 2
        before = 0.0
        for step, size in enumerate(_paced(feed, settings.paced_steps_per_s)):
            if step == settings.paced_steps_per_s * WARM_UP_S:
                before = sum(process.cpu_times()[:2])
            feed.report(losses[:size])
            if step == settings.paced_steps_per_s * (WARM_UP_S + settings.paced_s):
                break
        spent_s = sum(process.cpu_times()[:2]) - before
        feed.close()
        for process_ in (broker, assistant):
            process_.wait(30)
        broker.stdout.close()
    return 1000 * spent_s / (settings.paced_steps_per_s * settings.paced_s)


def _paced(feed: Feed, steps_per_s: int) -> Iterator[int]:
    """Sizes of the batches, one by one, at a fixed pace."""
    pace, due = threading.Event(), time.monotonic()
    while not feed.ended:
        for ids in feed:
            pace.wait(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic() - 1.0) + 1.0 / steps_per_s
            yield len(ids)


def through_relay(settings: TransportBenchmark) -> float:
    """Batches per second, each with its loss report, through a process that only moves the bytes."""
    mine, theirs = multiprocessing.Pipe()
    relay = multiprocessing.get_context("spawn").Process(target=_relay, args=(theirs, settings), daemon=True)
    relay.start()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(mine.recv())
    report = _frames(LossReport(step=1, through=1, rank=0, losses=np.ones(settings.batch_size, dtype=np.float32)))
    for _ in range(settings.credit):
        socket.send_multipart(report)
    start = time.perf_counter()
    for received in range(settings.batches):
        socket.recv_multipart()
        if received < settings.batches - settings.credit:
            socket.send_multipart(report)
    rate = settings.batches / (time.perf_counter() - start)
    socket.close()
    context.term()
    relay.join(10)
    return rate


def _relay(pipe: Connection, settings: TransportBenchmark) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    pipe.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
    batch = _frames(
        Batch(
            step=1,
            epoch=0,
            progress=0.5,
            ids=np.arange(settings.batch_size, dtype=np.int64),
            keep_probabilities=np.ones(settings.batch_size, dtype=np.float32),
            rank_counts=[settings.batch_size],
            segments=[Segment(count=settings.batch_size, epoch=0, window=0)],
        )
    )
    for _ in range(settings.batches):
        peer, *_ = socket.recv_multipart()
        socket.send_multipart([peer, *batch])
    socket.close()
    context.term()


def _frames(message: Batch | LossReport) -> list[bytes]:
    return encode(Envelope(seq=1, span=1, ack=0, message=message))


def start_time_s() -> float:
    """Seconds from starting a broker process until it listens."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autoassist", "broker", "--run-dir", folder, "--port", "0", "--announce"]
        start = time.perf_counter()
        broker = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert broker.stdout is not None
        broker.stdout.readline()
        elapsed = time.perf_counter() - start
        broker.terminate()
        broker.wait(10)
        broker.stdout.close()
    return elapsed


def main(settings: TransportBenchmark) -> None:
    """Measure and print."""
    print(machine())
    print(f"{settings.batches} batches of {settings.batch_size} IDs, credit {settings.credit}; run directory on disk\n")
    broker, relay = [], []
    for _ in range(settings.repetitions):
        broker.append(through_broker(settings))
        relay.append(through_relay(settings))
    ratios = [b / r for b, r in zip(broker, relay, strict=True)]
    starts = [start_time_s() for _ in range(5)]
    paced = [cpu_ms_per_step(settings) for _ in range(settings.repetitions)]
    rows = [
        ["broker: batches/s, each with its loss report", spread(broker, ".0f")],
        ["bare ZeroMQ relay: the same bytes/s", spread(relay, ".0f")],
        ["ratio broker : relay", spread(ratios)],
        ["broker process listens after, s", spread(starts)],
        [f"broker's CPU a step at {settings.paced_steps_per_s} steps/s, with an Assistant, ms", spread(paced)],
    ]
    print_table(["transport", "median (least … greatest)"], rows)


if __name__ == "__main__":
    main(tyro.cli(TransportBenchmark))
