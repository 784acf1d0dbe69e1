"""A broker and Assistants as processes, and the step of a Boss that has no model."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from boss.feed import Feed


def command(*words: str) -> list[str]:
    """``autoassist …``"""
    return [sys.executable, "-m", "autoassist", *words]


@contextmanager
def broker() -> Iterator[str]:
    """The address of a broker that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        words = command("broker", "--run-dir", folder, "--port", "0", "--announce")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            yield msgspec.json.decode(process.stdout.readline())["address"]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


class Assistant:
    """An Assistant as a process; ``joined_s`` is how long it took until it had joined the run."""

    def __init__(self, address: str, *words: str) -> None:
        self.joined = threading.Event()
        self.joined_s = 0.0
        self._start = time.perf_counter()
        self.process = subprocess.Popen(
            command("assistant", *words, "--broker", address), stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "joined the run" in line and not self.joined.is_set():
                self.joined_s = time.perf_counter() - self._start
                self.joined.set()

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def assistant(address: str, *words: str) -> Iterator[Assistant]:
    """One that is gone afterwards."""
    one = Assistant(address, *words)
    try:
        yield one
    finally:
        one.kill()


@contextmanager
def boss(address: str, **run: Any) -> Iterator[Feed]:
    """A Boss of a run that has no end, and is broken off."""
    feed = Feed.connect(address, **{"epochs": 100_000, **run})
    try:
        yield feed
    finally:
        feed.stop()
        feed.close("stopped")


def batches(feed: Feed) -> Iterator[list[int]]:
    """Those of one epoch after another."""
    while not feed.ended:
        yield from feed


@dataclass(frozen=True)
class Spin:
    """Computes for a while as a training step does: in torch, which lets other threads run meanwhile."""

    a: torch.Tensor

    @classmethod
    def small(cls) -> Spin:
        """Multiplies matrices of a few dozen microseconds."""
        return cls(torch.rand(128, 128))

    def __call__(self, seconds: float) -> None:
        """For at least as long."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            torch.mm(self.a, self.a)
