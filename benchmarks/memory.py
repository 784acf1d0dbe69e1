"""Memory of broker and Assistant: with very many instances, and over a million messages that nobody reads.

Many instances: a broker of a billion, over some thousand steps with an Assistant; an Assistant of a hundred million
beside one of a million (``benchmarks.memory_many``). Stalled means of a consumer: its process lives and gives signs of
life, and it reads nothing. Growth is counted from a tenth of the messages on, when all buffers are as full as they get.

    python -m benchmarks.memory [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil
import tyro
import zmq

from benchmarks.common import machine, print_table
from benchmarks.memory_many import AssistantFigures
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
    Window,
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

    broker_instances: int = 1_000_000_000
    """Instances of the broker's run."""

    broker_steps: int = 2000
    """Steps of it, at 64 instances."""

    assistant_instances: int = 100_000_000
    """Instances of the large Assistant; 16 bytes of each on disk."""

    few_instances: int = 1_000_000
    """Instances of the small one."""

    folder: Path = Path(tempfile.gettempdir())
    """Where the Assistants' tables lie for the time."""

    json: Path | None = None
    """File for all values."""


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


def boss_hello(policy: str, n: int = N) -> Hello:
    """A Boss without a budget that would end soon."""
    run = RunSettings(policy=policy, boss_instances=FAR, batch_size=BATCH_SIZE)
    incarnation = new_incarnation()
    return Hello(role="boss", name="boss-0", incarnation=incarnation, dataset_id="none", n=n, settings=run)


def assistant_hello(n: int = N) -> Hello:
    """An Assistant of the same data set."""
    incarnation = new_incarnation()
    return Hello(role="assistant", name="assistant-0", incarnation=incarnation, dataset_id="none", n=n, slots=2)


def broker_of_many(settings: MemoryBenchmark) -> float:
    """The greatest memory, in MB, of a broker with so many instances while a Boss trains and an Assistant selects."""
    n, step, most_mb = settings.broker_instances, -1, 0.0
    losses = np.ones(BATCH_SIZE, dtype=np.float32)
    with a_broker() as site:
        boss, assistant = (
            RoleClient(hello, ConnectSettings(broker=site.address))
            for hello in (boss_hello("autoassist", n), assistant_hello(n))
        )
        while not (boss.is_open and assistant.is_open):
            boss.poll(0.1)
            assistant.poll(0.1)
        boss.send(Credit(limit=CREDIT, yielded=-1))
        assistant.send(Credit(limit=FAR))
        while step < settings.broker_steps:
            for message in assistant.poll(0.0):
                if isinstance(message, Window):
                    assistant.send(_half_of(message, step))
            for message in boss.poll(0.01):
                if isinstance(message, Batch):
                    step = message.step
                    boss.send(LossReport(step=step, through=step, rank=0, losses=losses))
                    boss.send(Credit(limit=step + CREDIT, yielded=step))
                    most_mb = max(most_mb, site.rss_mb)
        boss.send(Goodbye(reason="stopped"))
        boss.drain(30.0)
        boss.close()
        assistant.close()
    return most_mb


def _half_of(window: Window, step: int) -> Selection:
    kept = window.ids[::2]
    return Selection(
        window=window.window,
        attempt=window.attempt,
        kept_ids=kept,
        keep_probabilities=np.full(len(kept), 0.5, dtype=np.float32),
        learned_through=step,
    )


def assistant_of_many(instances: int, folder: Path) -> AssistantFigures:
    """What an Assistant of so many instances costs, in a process of its own."""
    words = ["-m", "benchmarks.memory_many", "--instances", str(instances), "--folder", str(folder)]
    found = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(found.stdout, type=AssistantFigures)


def print_assistants(many: AssistantFigures, few: AssistantFigures, settings: MemoryBenchmark) -> None:
    """One column each."""
    names = {
        "begun_anon_mb": "anonymous memory before there are instances, MB",
        "anon_mb": "the most of it, MB",
        "file_mb": "files' pages in memory, which the kernel may drop, MB",
        "disk_bytes_per_instance": "bytes an instance in mapped files",
        "window_us": "CPU a window of 256, µs",
        "record_us": "CPU a record of 128 learned, µs",
        "checkpoint_ms": "a checkpoint, ms",
        "checkpoint_mb": "its file, MB",
        "restart_ms": "back at it after 2,000 records more, ms",
    }
    rows = [[words, f"{getattr(few, name):.1f}", f"{getattr(many, name):.1f}"] for name, words in names.items()]
    print_table(["an Assistant of", f"{settings.few_instances:.0e}", f"{settings.assistant_instances:.0e}"], rows)


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


def stalled_growth(settings: MemoryBenchmark) -> float:
    """The most that the broker's memory grows by in either scenario, MB."""
    scenarios = {
        "Assistant and statistics subscriber stalled": with_a_stalled_assistant_and_subscriber(settings),
        "Boss stalled": with_a_stalled_boss(settings),
    }
    rows, worst = [], 0.0
    for name, seen_mb in scenarios.items():
        grown = max(seen_mb[10:]) - seen_mb[9]
        worst = max(worst, grown)
        rows.append([name, f"{seen_mb[9]:.0f}", f"{seen_mb[-1]:.0f}", f"{grown:.1f}"])
    print(f"\n{settings.messages} messages in each scenario\n")
    print_table(["broker's memory, MB", "after a tenth", "at the end", "most growth between"], rows)
    return worst


def main(settings: MemoryBenchmark) -> int:
    """Measure and print; returns 1 where memory has grown beyond the limit."""
    print(machine() + "\n")
    broker_mb = broker_of_many(settings)
    print(f"A broker of {settings.broker_instances:.0e} instances, most resident memory: {broker_mb:.1f} MB\n")
    few = assistant_of_many(settings.few_instances, settings.folder)
    many = assistant_of_many(settings.assistant_instances, settings.folder)
    print_assistants(many, few, settings)
    worst = stalled_growth(settings)
    if settings.json is not None:
        given = {name: str(value) if name == "folder" else value for name, value in asdict(settings).items()}
        found = {
            "broker_mb": broker_mb,
            "assistant_bytes_per_instance": many.disk_bytes_per_instance,
            "assistant_anon_mb": many.anon_mb,
            "ratio_window_many_to_few": many.window_us / few.window_us,
            "stalled_growth_mb": worst,
            "values": {"few": few, "many": many},
            "settings": {name: value for name, value in given.items() if name != "json"},
            "machine": machine(),
        }
        settings.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return int(worst > settings.limit_mb)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(MemoryBenchmark)))
