"""What the broker is compared with: processes that move the same messages, or the same arrays, and decide nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import zmq

from protocol.codec import decode, encode
from protocol.messages import (
    AnyMessage,
    Batch,
    Credit,
    Envelope,
    Goodbye,
    Heartbeat,
    Hello,
    LossRecord,
    LossReport,
    Segment,
    Selection,
    Welcome,
    Window,
)
from protocol.settings import RunSettings

WINDOW_BATCHES = 4
"""Batches' worth of candidates in a window, as the broker makes them; half of them is kept."""
WINDOWS_AHEAD = 2
SLOTS = 32
"""Batches that wait in the queue at most."""


@contextmanager
def router_loop(batch_size: int) -> Iterator[tuple[str, psutil.Process]]:
    """A ROUTER loop that reads and writes the messages of a run, each as it is, and decides nothing.

    It numbers and acknowledges, answers a credit with batches and a report with its record, all made of the same
    arrays. No plan, no stock, no lease, no staleness, no store.
    """
    with _started("router", batch_size) as started:
        yield started


@contextmanager
def _started(kind: str, *numbers: int) -> Iterator[tuple[str, psutil.Process]]:
    """This module as a process of its own: its address, and itself."""
    words = [sys.executable, "-m", "benchmarks.transport_peers", kind, *map(str, numbers)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
        process.stdin.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class _Bare:
    """The loop's two peers, and what they are sent."""

    def __init__(self, socket: zmq.Socket[bytes], batch_size: int) -> None:
        self.socket = socket
        self.ids = np.arange(WINDOW_BATCHES * batch_size, dtype=np.int64)
        self.keep = np.full(batch_size, 0.5, dtype=np.float32)
        self.size = batch_size
        self.lines: dict[str, bytes] = {}
        self.said: dict[bytes, int] = {}
        self.heard: dict[bytes, int] = {}
        self.step = self.window = 0

    def send(self, role: str, message: AnyMessage) -> None:
        line = self.lines.get(role)
        if line is None:
            return  # it has said Goodbye
        self.said[line] += 1
        envelope = Envelope(seq=self.said[line], span=1, ack=self.heard[line], message=message)
        self.socket.send_multipart([line, *encode(envelope)])

    def receive(self) -> bool:
        """Answer one message; False for the Boss's Goodbye."""
        line, *frames = self.socket.recv_multipart()
        envelope = decode(frames)
        message = envelope.message
        self.heard[line] = max(envelope.seq, self.heard.get(line, 0))
        match message:
            case Hello():
                self._welcome(line, message)
            case LossReport():
                self._record(message)
            case Credit() if line == self.lines.get("boss"):
                self.cut(message.limit)
            case Selection():
                pass
            case Goodbye():
                beat = Envelope(seq=0, span=1, ack=envelope.seq, message=Heartbeat(seq=self.said[line]))
                self.socket.send_multipart([line, *encode(beat)])
                self.lines = {role: other for role, other in self.lines.items() if other != line}
        return bool(self.lines) or not isinstance(message, Goodbye)

    def _welcome(self, line: bytes, hello: Hello) -> None:
        if self.lines.get(hello.role) != line:  # it may say Hello twice before it hears the answer
            self.lines[hello.role], self.said[line], self.heard[line] = line, 0, 0
        welcome = Welcome(run_id="bare", stream=hello.role, settings=RunSettings(), dataset_id="none", n=hello.n)
        self.socket.send_multipart([line, *encode(Envelope(seq=0, span=1, ack=0, message=welcome))])

    def cut(self, limit: int) -> None:
        """Send batches up to a step, and windows for those after it."""
        if len(self.lines) < 2:
            return  # the Boss says its credit again
        while self.step <= limit:
            segments = [
                Segment(
                    count=self.size, epoch=0, window=self.window, assistant="assistant-0", learned_through=self.step
                )
            ]
            batch = Batch(
                step=self.step,
                epoch=0,
                progress=0.5,
                ids=self.ids[: self.size],
                keep_probabilities=self.keep,
                rank_counts=[self.size],
                segments=segments,
            )
            self.send("boss", batch)
            self.step += 1
        while self.window * WINDOW_BATCHES // 2 < self.step + WINDOWS_AHEAD * WINDOW_BATCHES:
            self.window += 1
            self.send("assistant", Window(window=self.window, attempt=1, epoch=0, progress=0.5, ids=self.ids))

    def _record(self, report: LossReport) -> None:
        record = LossRecord(
            position=report.step,
            step=report.step,
            rank=0,
            learned_through=report.step,
            epoch=0,
            ids=self.ids[: self.size],
            losses=report.losses,
            keep_probabilities=self.keep,
        )
        self.send("assistant", record)


def _router_loop(socket: zmq.Socket[bytes], batch_size: int) -> None:
    bare = _Bare(socket, batch_size)
    while bare.receive():
        pass


def through_relay(batches: int, batch_size: int, credit: int) -> float:
    """Batches per second, each with its loss report, through a process that only moves the bytes."""
    with _started("relay", batches, batch_size) as (address, _):
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        report = _frames(LossReport(step=1, through=1, rank=0, losses=np.ones(batch_size, dtype=np.float32)))
        for _ in range(credit):
            socket.send_multipart(report)
        start = time.perf_counter()
        for received in range(batches):
            socket.recv_multipart()
            if received < batches - credit:
                socket.send_multipart(report)
        rate = batches / (time.perf_counter() - start)
        socket.close()
        context.term()
    return rate


def _relay(socket: zmq.Socket[bytes], batches: int, batch_size: int) -> None:
    batch = _frames(
        Batch(
            step=1,
            epoch=0,
            progress=0.5,
            ids=np.arange(batch_size, dtype=np.int64),
            keep_probabilities=np.ones(batch_size, dtype=np.float32),
            rank_counts=[batch_size],
            segments=[Segment(count=batch_size, epoch=0, window=0)],
        )
    )
    for _ in range(batches):
        peer, *_ = socket.recv_multipart()
        socket.send_multipart([peer, *batch])


def _frames(message: Batch | LossReport) -> list[bytes]:
    return encode(Envelope(seq=1, span=1, ack=0, message=message))


def through_queue(batches: int, batch_size: int) -> float:
    """Batches per second in one direction by torch.multiprocessing.Queue: (ids, π) as NumPy arrays, a tuple a batch."""
    import torch.multiprocessing

    context = torch.multiprocessing.get_context("fork")  # a spawned child would import this whole benchmark first
    queue = context.Queue(SLOTS)
    producer = context.Process(target=_produce, args=(queue, batches, batch_size), daemon=True)
    producer.start()
    queue.get()
    start = time.perf_counter()
    for _ in range(batches):
        queue.get()
    rate = batches / (time.perf_counter() - start)
    producer.join(10)
    return rate


def _produce(queue: Any, batches: int, batch_size: int) -> None:
    ids, keep = np.arange(batch_size, dtype=np.int64), np.ones(batch_size, dtype=np.float32)
    for _ in range(batches + 1):
        queue.put((ids, keep))


def through_channel(batches: int, batch_size: int) -> float:
    """Batches per second in one direction as the broker sends them and a Boss reads them: coded, by ZeroMQ."""
    with _started("stream", batches, batch_size) as (address, _):
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        socket.send(b"")
        decode(socket.recv_multipart())
        start = time.perf_counter()
        for _ in range(batches):
            decode(socket.recv_multipart())
        rate = batches / (time.perf_counter() - start)
        socket.close()
        context.term()
    return rate


def _stream(socket: zmq.Socket[bytes], batches: int, batch_size: int) -> None:
    bare = _Bare(socket, batch_size)
    line, _ = socket.recv_multipart()
    bare.lines, bare.said, bare.heard = {"boss": line, "assistant": line}, {line: 0}, {line: 0}
    bare.window = 1 << 40  # no windows
    bare.cut(batches)


def main() -> None:
    """One peer, as the first argument says."""
    kind, *numbers = sys.argv[1:]
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # where a line is full, wait
    print(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}", flush=True)
    peers: dict[str, Callable[..., None]] = {"router": _router_loop, "relay": _relay, "stream": _stream}
    peers[kind](socket, *map(int, numbers))
    sys.stdin.read()  # who closes first takes from the other what it has not read
    socket.close(linger=10_000)
    context.term()


if __name__ == "__main__":
    main()
