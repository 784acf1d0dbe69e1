"""Memory of the broker over a million messages, with consumers that stall: an Assistant, a subscriber, a Boss.

Stalled means: its process lives and gives signs of life, and it reads nothing. Growth is counted from a tenth of the
messages on, when all buffers are as full as they get.

    python -m benchmarks.memory
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import psutil
import tyro
import zmq

from benchmarks.common import machine, print_table
from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.codec import decode, encode
from protocol.messages import (
    AnyMessage,
    Batch,
    Credit,
    Envelope,
    Goodbye,
    Heartbeat,
    Hello,
    LossReport,
    Selection,
    Welcome,
)
from protocol.settings import RunSettings

N = 1_000_000
BATCH_SIZE = 64
CREDIT = 32
FAR = 1 << 40
CHUNK = 250
"""Messages between two looks at what has come back."""
PER_STEP = 4
"""Messages of a step: batch, report, credit, and the loss record for the Assistant."""


@dataclass(frozen=True, kw_only=True)
class MemoryBenchmark:
    """Settings of the benchmark."""

    messages: int = 1_000_000
    """Messages in each scenario."""

    limit_mb: float = 16.0
    """Growth above which the exit code is 1."""


@dataclass
class Site:
    """A broker process, with its memory."""

    address: str
    statistics: str
    process: psutil.Process

    @property
    def rss_mb(self) -> float:
        """Resident memory."""
        return float(self.process.memory_info().rss) / 1e6


@contextmanager
def a_broker() -> Iterator[Site]:
    """A broker on a free port, until the run is over."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autoassist", "broker", "--run-dir", folder, "--port", "0", "--announce"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        said = msgspec.json.decode(process.stdout.readline())
        try:
            yield Site(said["address"], said["statistics"], psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


@contextmanager
def stalled(address: str, hello: Hello, credit: Credit) -> Iterator[None]:
    """A role that is admitted, asks for everything, gives signs of life, and reads nothing."""
    context, over = zmq.Context(), threading.Event()

    def live() -> None:
        line = context.socket(zmq.DEALER)
        line.setsockopt(zmq.LINGER, 0)
        line.connect(address)
        admitted = False
        for message in _forever(hello, credit):
            line.send_multipart(encode(Envelope(seq=0, span=1, ack=0, message=message)))
            admitted = admitted or bool(line.poll(1000) and line.recv_multipart())
            if over.wait(0.5):
                break
        line.close()

    thread = threading.Thread(target=live, name="stalled")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        context.term()


def _forever(hello: Hello, credit: Credit) -> Iterator[AnyMessage]:
    yield hello
    yield credit
    while True:
        yield Heartbeat(seq=0)


def boss_hello(policy: str) -> Hello:
    """A Boss without a budget that would end soon."""
    run = RunSettings(policy=policy, boss_instances=FAR, batch_size=BATCH_SIZE)  # type: ignore[arg-type]
    incarnation = new_incarnation()
    return Hello(role="boss", name="boss-0", incarnation=incarnation, dataset_id="none", n=N, settings=run)


def assistant_hello() -> Hello:
    """An Assistant of the same data set."""
    incarnation = new_incarnation()
    return Hello(role="assistant", name="assistant-0", incarnation=incarnation, dataset_id="none", n=N, slots=2)


def with_a_stalled_assistant_and_subscriber(settings: MemoryBenchmark) -> list[float]:
    """The Boss trains on; broker's memory, in MB, at each hundredth of the messages."""
    steps, seen_mb = settings.messages // PER_STEP, list[float]()
    losses = np.ones(BATCH_SIZE, dtype=np.float32)
    with a_broker() as site, zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.RCVHWM, 1)
        subscriber.subscribe(b"")
        subscriber.connect(site.statistics)
        client = RoleClient(boss_hello("autoassist"), ConnectSettings(broker=site.address))
        while not client.is_open:
            client.poll(1.0)
        client.send(Credit(limit=CREDIT, yielded=-1))
        with stalled(site.address, assistant_hello(), Credit(limit=FAR)):
            while len(seen_mb) < 100:
                for message in client.poll(1.0):
                    if not isinstance(message, Batch):
                        continue
                    client.send(LossReport(step=message.step, through=message.step, rank=0, losses=losses))
                    client.send(Credit(limit=message.step + CREDIT, yielded=message.step))
                    if message.step >= steps // 100 * (len(seen_mb) + 1):
                        seen_mb.append(site.rss_mb)
        client.send(Goodbye(reason="stopped"))
        client.drain(30.0)
        client.close()
    return seen_mb


def with_a_stalled_boss(settings: MemoryBenchmark) -> list[float]:
    """An Assistant answers late without end; broker's memory, in MB, at each hundredth of the messages."""
    seen_mb = list[float]()
    late = Selection(
        window=0,
        attempt=0,
        kept_ids=np.arange(BATCH_SIZE, dtype=np.int64),
        keep_probabilities=np.ones(BATCH_SIZE, dtype=np.float32),
        learned_through=-1,
    )
    with (
        a_broker() as site,
        stalled(site.address, boss_hello("autoassist"), Credit(limit=FAR)),
        zmq.Context() as context,
    ):
        line = context.socket(zmq.DEALER)
        line.setsockopt(zmq.LINGER, 0)
        line.connect(site.address)
        _say_hello(line)
        for number in range(1, settings.messages + 1):
            line.send_multipart(encode(Envelope(seq=number, span=1, ack=0, message=late)))  # blocks: none is lost
            if number % CHUNK == 0:
                _read_all(line)
            if number % (settings.messages // 100) == 0:
                seen_mb.append(site.rss_mb)
        line.close()
    return seen_mb


def _say_hello(line: zmq.Socket[bytes]) -> None:
    """Until a Boss has begun the run, an Assistant is asked to wait."""
    while True:
        line.send_multipart(encode(Envelope(seq=0, span=1, ack=0, message=assistant_hello())))
        if isinstance(decode(line.recv_multipart()).message, Welcome):
            return
        line.poll(100)


def _read_all(line: zmq.Socket[bytes]) -> None:
    while line.poll(0):
        line.recv_multipart()


def main(settings: MemoryBenchmark) -> int:
    """Measure and print; returns 1 where memory has grown beyond the limit."""
    print(machine())
    print(f"{settings.messages} messages in each scenario\n")
    scenarios = {
        "Assistant and statistics subscriber stalled": with_a_stalled_assistant_and_subscriber(settings),
        "Boss stalled": with_a_stalled_boss(settings),
    }
    rows, worst = [], 0.0
    for name, seen_mb in scenarios.items():
        grown = max(seen_mb[10:]) - seen_mb[9]
        worst = max(worst, grown)
        rows.append([name, f"{seen_mb[9]:.0f}", f"{seen_mb[-1]:.0f}", f"{grown:.1f}"])
    print_table(["broker's memory, MB", "after a tenth", "at the end", "most growth between"], rows)
    return int(worst > settings.limit_mb)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(MemoryBenchmark)))
