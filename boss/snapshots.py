"""Snapshots: the Boss's weights in a file now and then, for Assistants that look ahead with them in their idle time.

Training never waits for one, and never fails for one: the weights are copied, and a thread of its own writes the copy.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from boss.files import refused, write
from protocol.cores import keep_aside
from protocol.errors import SettingError
from protocol.settings import require
from protocol.trouble import Trouble
from workloads.snapshot_files import snapshot_content

log = logging.getLogger("autoassist.boss")

MOST_MIB = 256
"""Larger weights are not written at all: a CPU could not run such a network ahead of its Boss."""
REST_FACTOR = 49.0
"""How much longer than a snapshot takes there is none after it: they cost a fiftieth of the time at most."""
CLOSE_S = 10.0
"""How long the last one may take once training is over."""
CONSEQUENCE = "Assistants look ahead with older weights, or not at all; free space there or make it writable"


@dataclass(frozen=True, kw_only=True)
class SnapshotSettings:
    """Where and how often the Boss leaves its weights for Assistants."""

    snapshots: Path | None = None
    """File into which the Boss writes its weights now and then, for Assistants that look ahead with them; none without
    it."""

    snapshot_every: int = 100
    """Steps between two snapshots, at the least."""

    def __post_init__(self) -> None:
        require(self.snapshot_every > 0, "snapshot_every", self.snapshot_every, "must be a positive number of steps")


@dataclass(frozen=True, slots=True)
class Copied:
    """Weights on their way into the buffers: there once the events have happened."""

    step: int
    weights: dict[str, Tensor]
    events: list[torch.cuda.Event]
    began_s: float


class Snapshots:
    """Takes snapshots of a Boss that trains; ``with`` or ``close`` ends its thread.

    What lies there of another training, or of steps that were taken back, is removed at the start.

    Price: the network's size in memory once more, pinned for a GPU, and a fiftieth of the time at most, of which the
    training thread only has the copying (on a GPU the asking for it).
    """

    def __init__(self, settings: SnapshotSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        if settings.snapshots is None:
            raise SettingError("snapshots=None: give SnapshotSettings the file, snapshots=Path(…)")
        self.path = settings.snapshots
        with suppress(OSError):  # whoever cannot remove it cannot replace it, and is told then
            self.path.unlink(missing_ok=True)
        self.every_steps = settings.snapshot_every
        self._part = self.path.with_name(self.path.name + ".part")
        self._clock = clock
        self._last_step = -1
        self._rests_until_s = -math.inf
        self._buffers: dict[str, Tensor] = {}
        self._trouble = Trouble(log)
        self._is_over = False
        self._copies: queue.SimpleQueue[Copied | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_idle = threading.Event()
        self._is_idle.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The training thread

    def take(self, boss: nn.Module, step: int) -> None:
        """After each optimizer step, on rank 0: write the weights that ``boss`` has after ``step``, if it is time.

        ``boss`` is the bare module, without DDP around it. Returns at once, and never raises.
        """
        if not self._is_due(step):
            return
        began_s, self._last_step = self._clock(), step
        try:
            weights = {name: value for name, value in boss.state_dict().items() if isinstance(value, Tensor)}
            if why := _why_not(weights):
                log.info("no snapshots of the Boss: %s; Assistants do not look ahead", why)
                self._is_over = True
                return
            self._hand_over(self._copy(weights, step, began_s))
        except Exception as error:  # whatever it is, training goes on
            self._met(error)
            self._rest(began_s)

    def _is_due(self, step: int) -> bool:
        """A step before the last one's is another run's, or the same run's after it was taken back."""
        if self._is_over or 0 <= step - self._last_step < self.every_steps or not self._is_idle.is_set():
            return False
        return self._clock() >= self._rests_until_s

    @torch.no_grad()
    def _copy(self, weights: dict[str, Tensor], step: int, began_s: float) -> Copied:
        """No device is waited for, but where pinned memory is asked for the first time."""
        self._buffers = {name: self._buffer(name, value) for name, value in weights.items()}
        for name, value in weights.items():
            self._buffers[name].copy_(value, non_blocking=value.is_cuda)
        events = []
        for device in {value.device for value in weights.values() if value.is_cuda}:
            # Who waits for it sleeps: that core may be another role's.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            events.append(event)
        return Copied(step, self._buffers, events, began_s)

    def _buffer(self, name: str, value: Tensor) -> Tensor:
        """The last snapshot's, where it fits."""
        old = self._buffers.get(name)
        if old is not None and (old.shape, old.dtype) == (value.shape, value.dtype):
            return old
        return torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)

    def _hand_over(self, copied: Copied) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="autoassist-snapshots", daemon=True)
            thread.start()
            self._thread = thread
        self._is_idle.clear()
        self._copies.put(copied)

    def close(self) -> None:
        """Finish what is being written, and end the thread; the file stays."""
        self._is_over = True
        if self._thread is not None:
            self._copies.put(None)
            self._thread.join(CLOSE_S)

    # The writer's thread

    def _run(self) -> None:
        keep_aside()
        while (copied := self._copies.get()) is not None:
            try:
                self._write(copied)
            except Exception as error:  # one that ends this thread would end all snapshots without a word
                self._met(error)
            else:
                self._trouble.is_over()
            self._rest(copied.began_s)
            self._is_idle.set()
        self._trouble.ends()

    def _write(self, copied: Copied) -> None:
        for event in copied.events:
            event.synchronize()
        write(snapshot_content(copied.step, copied.weights), self._part)
        try:
            self._part.replace(self.path)
        except OSError:
            with suppress(OSError):
                self._part.unlink()
            raise

    # Either, while the other does nothing

    def _rest(self, began_s: float) -> None:
        now = self._clock()
        self._rests_until_s = now + REST_FACTOR * (now - began_s)

    def _met(self, error: Exception) -> None:
        what = refused(self.path, error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}"))
        self._trouble.met(f"snapshot: {what}", CONSEQUENCE)


@contextmanager
def taking(settings: SnapshotSettings) -> Iterator[Snapshots | None]:
    """What takes them, as long as it lasts; None where there is no file for them."""
    if settings.snapshots is None:
        yield None
        return
    with Snapshots(settings) as snapshots:
        yield snapshots


def _why_not(weights: dict[str, Tensor]) -> str:
    """Why a network has no snapshots; "" where it has."""
    for name, value in weights.items():
        if type(value) not in (Tensor, nn.Parameter):
            return f"{name} is a {type(value).__name__}, of which this rank may have a part only"
    size_mib = sum(value.numel() * value.element_size() for value in weights.values()) / (1 << 20)
    return f"its weights are {size_mib:.0f} MiB, more than {MOST_MIB}" if size_mib > MOST_MIB else ""
