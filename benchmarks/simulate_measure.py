"""Measures the prices of the simulation: the broker's whole loop, with its store on disk, driven in simulated time.

Sockets are queues in memory here, so what a message costs in ZeroMQ is measured apart and added. All is CPU time of the
one thread; an iteration's is explained by its counted work, by least squares without negative prices.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import zmq
from scipy.optimize import nnls

from benchmarks.simulate_costs import NAMES, Costs, Work
from benchmarks.simulate_roles import RoleTimes
from benchmarks.simulate_world import ENDLESS, Network, Said, World
from broker.core import BrokerCore
from broker.effects import Effect, Send, SendRecords
from broker.loop import Broker
from broker.report import build_statistics
from broker.settings import BrokerSettings
from protocol.channels import Frames, MemoryHub, ZmqBrokerChannel
from protocol.codec import decode, encode
from protocol.messages import AnyMessage, Envelope, Heartbeat, Hello, LossRecord, LossReport, Welcome
from protocol.settings import RunSettings
from protocol.statistics import encode_statistics
from protocol.stream import Stream, Verdict

WORLDS = (
    (1, 1, 64),
    (1, 8, 512),
    (1, 64, 64),
    (16, 4, 64),
    (16, 4, 1024),
    (32, 64, 16),
    (256, 1, 64),
    (128, 8, 256),
    (1024, 1, 64),
)
"""Ranks, Assistants and batch size of the runs from which the prices come."""
ITERATIONS = 1000
"""In each of these runs, those of its beginning included."""
SKIPPED = 50
"""Iterations at each run's beginning that count for nothing: caches are cold, and everybody joins."""
STEP_S = 0.05
MESSAGES, AT_ONCE = 5000, 500
"""Of the socket's measurement."""
LOOKS = 20
"""Times that the statistics are built."""
HEARD = NAMES.index("received_us")
TOGETHER = 10
"""Iterations of one run that are taken together."""


@dataclass(slots=True)
class Timed:
    """Iterations of the real loop: what each had to do, and the CPU time of its thread."""

    counts: list[list[float]] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


class _NotedBroker(Broker):
    """The broker; what its core decides is noted."""

    noted: list[Effect]

    def _apply(self, effects: list[Effect], now: float) -> None:
        self.noted += effects
        super()._apply(effects, now)


class _Lines(MemoryHub):
    """What the broker sends, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[bytes, Frames]] = []

    def send(self, routing_id: bytes, frames: Any) -> bool:
        self.sent.append((routing_id, list(frames)))
        return True


class RealEngine:
    """The broker's loop itself, with its store in ``run_dir``; ``took_s`` is what an iteration takes in simulated time,
    if not what it takes here."""

    def __init__(self, run_dir: Path, took_s: float | None = None) -> None:
        self.timed = Timed()
        self._took_s, self._now = took_s, 0.0
        self._clock = SimpleNamespace(monotonic=lambda: self._now, sleep=lambda _: None)
        self.broker = _NotedBroker(BrokerSettings(run_dir=run_dir, port=0))
        self.broker.channel.close()
        self.broker.channel = self._hub = _Lines()  # type: ignore[assignment]
        self.broker._next_statistics = math.inf
        self._lines: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._streams: dict[str, Stream] = {}
        self._poller = zmq.Poller()
        assert self.broker.previews is not None
        self._poller.register(self.broker.previews.channel.socket, zmq.POLLIN)

    @property
    def core(self) -> BrokerCore:
        """See Engine."""
        return self.broker.core

    def join(self, hello: Hello) -> list[tuple[str, AnyMessage]]:
        """See Engine."""
        line = self._lines[hello.name] = self._hub.open_line()
        self._names[line], self._streams[hello.name] = hello.name, Stream()
        self._put(hello.name, Envelope(seq=0, span=1, ack=0, message=hello))
        self._iterate(Work(0))
        sent, _ = self._read()
        return sent

    def serve(self, heard: list[Said], now: float) -> tuple[float, list[tuple[str, AnyMessage]]]:
        """See Engine."""
        self._now = now
        work = Work(len(self._lines))
        for said in heard:
            work.receive(said.message)
            self._put(said.name, self._streams[said.name].number(said.message))
        cpu_s = self._iterate(work)
        sent, beats = self._read()
        for beat in beats:
            work.send(beat)
        self.timed.counts.append(work.counts())
        self.timed.cpu_us.append(1e6 * cpu_s)
        return cpu_s if self._took_s is None else self._took_s, sent

    def _put(self, name: str, envelope: Envelope) -> None:
        self._hub.inbox.append((self._lines[name], encode(envelope)))

    def _iterate(self, work: Work) -> float:
        self.broker.noted = []
        with mock.patch("broker.loop.time", self._clock):
            start = time.thread_time()
            self._poller.poll(0)
            self.broker._iterate(SimpleNamespace(requested=False))  # type: ignore[arg-type]
            took_s = time.thread_time() - start
        self._count(work)
        return took_s

    def _count(self, work: Work) -> None:
        """What the iteration has done; the store is read again for it, so it must come before the next one."""
        work.store(self.broker.noted)
        for effect in self.broker.noted:
            match effect:
                case Send(_, message):
                    work.send(message)
                case SendRecords(_, start, stop):
                    work.reads += stop - start
                    for record in self.broker.store.loss_records(start, stop):
                        work.send(record)

    def _read(self) -> tuple[list[tuple[str, AnyMessage]], list[Heartbeat]]:
        """What was sent, as the roles take it; signs of life apart."""
        sent: list[tuple[str, AnyMessage]] = []
        beats: list[Heartbeat] = []
        for line, frames in self._hub.sent:
            name, envelope = self._names[line], decode(frames)
            stream = self._streams[name]
            if isinstance(envelope.message, Welcome):
                continue
            stream.acknowledge(envelope.ack)
            verdict = stream.judge(envelope)
            stream.commit()
            if isinstance(envelope.message, Heartbeat):
                beats.append(envelope.message)
            else:
                assert verdict is Verdict.DELIVER, f"{name} was sent a {envelope.message} out of order"
                sent.append((name, envelope.message))
        self._hub.sent.clear()
        return sent, beats

    def close(self) -> None:
        """Give files and sockets back."""
        self.broker._close()


def measured(seed: int) -> tuple[Costs, list[float]]:
    """The prices on this machine, and for each of the runs how the priced time stands to the measured one."""
    gc.collect()
    gc.freeze()  # what this process has imported, torch for one, the broker's has not to look through
    try:
        runs, statistics_us = _timed_runs(seed)
    finally:
        gc.unfreeze()
    costs = fitted(runs)
    ratios = [sum(_priced(costs, counts) for counts in run.counts) / sum(run.cpu_us) for run in runs]
    received_us, sent_us = _socket_us()
    prices = dict(zip(NAMES, costs.prices(), strict=True)) | {"statistics_role_us": statistics_us}
    prices["received_us"] += received_us
    prices["sent_us"] += sent_us
    return Costs(**prices), ratios


def _timed_runs(seed: int) -> tuple[list[Timed], float]:
    """Their iterations, and what the statistics cost in the last and largest of them, for each role."""
    runs: list[Timed] = []
    statistics_us = 0.0
    for ranks, assistants, batch_size in WORLDS:
        with TemporaryDirectory(prefix="autoassist-") as folder:
            engine = RealEngine(Path(folder))
            settings = RunSettings(world_size=ranks, batch_size=batch_size, boss_instances=ENDLESS)
            world = World(settings, assistants, engine, step_s=STEP_S, times=RoleTimes(), network=Network(), seed=seed)
            world.run(until=partial(_is_over, world))
            runs.append(engine.timed)
            statistics_us = _statistics_us(engine.broker) / (ranks + assistants)
            engine.close()
    for run in runs:
        del run.counts[:SKIPPED], run.cpu_us[:SKIPPED]
    return runs, statistics_us


def _is_over(world: World) -> bool:
    return world.broker.iterations >= ITERATIONS


def _priced(costs: Costs, counts: list[float]) -> float:
    return sum(price * count for price, count in zip(costs.prices(), counts, strict=True))


def fitted(runs: list[Timed]) -> Costs:
    """Prices that explain the CPU times best, none below zero.

    Iterations of a run that have heard about as much are taken together, for a single one's time scatters.
    """
    summed: list[np.ndarray] = []
    times: list[float] = []
    for run in runs:
        order = sorted(range(len(run.counts)), key=lambda i: run.counts[i][HEARD])
        for first in range(0, len(order), TOGETHER):
            group = order[first : first + TOGETHER]
            summed.append(np.sum([run.counts[i] for i in group], axis=0))
            times.append(sum(run.cpu_us[i] for i in group))
    prices, _ = nnls(np.array(summed) / np.array(times)[:, None], np.ones(len(times)))
    return Costs(**dict(zip(NAMES, prices.tolist(), strict=True)))


def _statistics_us(broker: Broker) -> float:
    start = time.thread_time()
    for _ in range(LOOKS):
        encode_statistics(build_statistics(broker.core, broker.hub, 0.0))
    return 1e6 * (time.thread_time() - start) / LOOKS


def _socket_us() -> tuple[float, float]:
    """CPU time of the thread for a message received, and sent, by ZeroMQ over TCP on this machine."""
    losses = np.ones(64, dtype=np.float32)
    report = encode(Envelope(seq=1, span=1, ack=0, message=LossReport(step=1, through=1, rank=0, losses=losses)))
    record = encode(
        Envelope(seq=1, span=1, ack=0, message=LossRecord(position=0, step=0, rank=0, learned_through=0, epoch=0))
    )
    received_s = sent_s = 0.0
    with zmq.Context() as context, context.socket(zmq.DEALER) as role:
        channel = ZmqBrokerChannel(context, "tcp://127.0.0.1:0")
        role.connect(channel.address)
        for _ in range(MESSAGES // AT_ONCE):
            for _ in range(AT_ONCE):
                role.send_multipart(report)
            line, left = b"", AT_ONCE
            while left:
                channel.socket.poll(1000)
                start = time.thread_time()
                while (received := channel.receive()) is not None:
                    line, left = received[0], left - 1
                received_s += time.thread_time() - start
            start = time.thread_time()
            for _ in range(AT_ONCE):
                channel.send(line, record)
            sent_s += time.thread_time() - start
            for _ in range(AT_ONCE):
                role.recv_multipart()
        channel.close()
    return 1e6 * received_s / MESSAGES, 1e6 * sent_s / MESSAGES
