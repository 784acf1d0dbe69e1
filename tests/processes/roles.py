"""Starts real roles and waits for what they say. Every wait has a generous deadline and names what it waited for."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from autoassist.export import RECORDS, write
from broker.store import RunStore
from protocol.statistics import RunStatistics, decode_statistics

DEADLINE_S = 90.0
HERE = Path(__file__).parent


AUTOASSIST = (sys.executable, "-m", "autoassist")
ASKED_FOR = ("run", "compare")
"""Commands whose runs look ahead of themselves: here they do so where a test asks for it. One more process with torch
each would be most of what the tests do."""


def is_told(words: tuple[str, ...]) -> bool:
    """Whether a run looks ahead is said, or was when it began."""
    return "--look-ahead" in words or "--resume" in words or "--help" in words


class Role:
    """One ``autoassist …`` process, or another program's, its words kept."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        within: tuple[str, ...] = (),
        program: tuple[str, ...] = AUTOASSIST,
    ) -> None:
        if program == AUTOASSIST and arguments[:1] and arguments[0] in ASKED_FOR and not is_told(arguments):
            arguments = (*arguments, "--look-ahead", "off")
        self.arguments = arguments
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [*within, *program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, words: str, deadline_s: float = DEADLINE_S) -> str:
        """The first line from now on that contains ``words``."""
        deadline = time.monotonic() + deadline_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                raise AssertionError(f"{self.arguments} ended without saying {words!r}; it said:\n{self.text}")
            self.said.append(line)
            if words in line:
                return line
        raise AssertionError(f"{self.arguments} did not say {words!r}; it said:\n{self.text}")

    def catch_up(self) -> None:
        """Take down what it has said, so that the next words that are waited for are those from now on."""
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                self._lines.put(None)
                return
            self.said.append(line)

    def end(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(deadline_s)
        self._reader.join(deadline_s)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.said.append(line)
        return code

    @property
    def text(self) -> str:
        """All that it said so far."""
        return "\n".join(self.said)

    def kill(self) -> None:
        """kill -9, if it lives."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


_listening: list[Statistics] = []


@contextmanager
def roles() -> Iterator[Callable[..., Role]]:
    """Gives a function that starts roles; kills at the end what still runs."""
    started: list[Role] = []

    def start(*arguments: str, **options: Any) -> Role:
        started.append(Role(*arguments, **options))
        return started[-1]

    try:
        yield start
    finally:
        for role in started:
            role.kill()
        while _listening:  # what a test that failed has left open would be the next one's
            _listening.pop().close()


def start_broker(start: Callable[..., Role], run_dir: Path, *arguments: str) -> tuple[Role, str, str]:
    """A broker on a free port; returns it with its address and that of its statistics."""
    broker = start("broker", "--run-dir", str(run_dir), "--port", "0", "--announce", *arguments)
    addresses = json.loads(broker.wait_for('{"address"'))
    return broker, addresses["address"], addresses["statistics"]


class Statistics:
    """Reads a broker's statistics until something is true."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.subscribe(b"")
        self._socket.connect(address)
        self.last = RunStatistics()
        _listening.append(self)

    def wait_until(self, is_true: Callable[[RunStatistics], bool], what: str) -> RunStatistics:
        """The first statistics that were not looked at yet for which it is true."""
        deadline = time.monotonic() + DEADLINE_S
        while (left := deadline - time.monotonic()) > 0:
            if self._socket.poll(left * 1000):
                self.last = decode_statistics(self._socket.recv())
                if is_true(self.last):
                    return self.last
        self.close()
        raise AssertionError(f"never saw {what}; last: {self.last}")

    def now(self) -> RunStatistics:
        """What the broker says next, of the run as it is: what lies here unread is older."""
        while self._socket.poll(0):
            self._socket.recv()
        return self.wait_until(lambda _: True, "statistics")

    def close(self) -> None:
        """Give the socket back."""
        if not self._context.closed:
            self._socket.close()
            self._context.term()


def export(run_dir: Path, what: str = "batches") -> list[dict[str, Any]]:
    """What ``autoassist export`` writes, without a process for it."""
    store, written = RunStore(run_dir, writable=False), io.StringIO()
    try:
        write(RECORDS[what](store), "jsonl", written)
    finally:
        store.close()
    return [json.loads(line) for line in written.getvalue().splitlines()]
