"""Losses known afresh: in its idle time an Assistant runs the Boss's own network over what is soon to be offered.

The Boss leaves its weights in a file now and then (a snapshot). A thread of its own takes the newest, and computes
the losses of the instances to come, on the CPU; the Assistant's loop collects them before it scores. It waits for
nothing of this: what was not looked at in time is judged by what is known of it otherwise.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assistant.ahead import CHUNK, Ahead
from protocol.arrays import F32, I64
from protocol.errors import AutoAssistError, DataError
from protocol.messages import Window
from protocol.trouble import Trouble

if TYPE_CHECKING:
    from torch import nn

    from workloads import Workload

log = logging.getLogger("autoassist.assistant")

NICENESS = 10
LOOK_S = 0.2
"""How often it looks for the first snapshot."""
PIECE_S = 0.25
"""How long it looks before it asks whether it is to end. A process that exits while a thread is within torch aborts."""
GROWTH = 4
"""How much larger a piece may be than the last one: the first is one instance, for nothing is known of it."""
CLOSE_S = 2.0
MOST_FOUND = 256
"""Chunks that may wait to be collected; the oldest are dropped."""


class Fresh(NamedTuple):
    """Losses of some instances under a snapshot, shape ``(k,)`` both."""

    ids: I64
    losses: F32


class BossCopy:
    """The Boss's network with the weights of its newest snapshot."""

    def __init__(self, workload: Workload, path: Path) -> None:
        self.workload = workload
        self.path = path
        self.step = -1
        """Of the snapshot; -1 before the first."""
        self._network: nn.Module | None = None
        self._seen: tuple[int, int] | None = None
        self._unread = Trouble(log)

    def refresh(self) -> bool:
        """Take the newest snapshot, where there is another; whether there is any."""
        try:
            stat = self.path.stat()
        except OSError:
            return self._network is not None
        if self._seen != (seen := (stat.st_ino, stat.st_mtime_ns)):
            self._seen = seen
            self._take()
        return self._network is not None

    def _take(self) -> None:
        import torch  # only now: a run without a snapshot does without its seconds and its memory

        from workloads.snapshot_files import read_snapshot

        torch.set_num_threads(1)
        network = self._network or self.workload.boss()
        try:
            found = read_snapshot(self.path)
            if found is None:
                return
            self.step, weights = found
            network.load_state_dict(weights)
        except (DataError, RuntimeError) as error:
            self._network = None
            self._unread.met(*self._of_no_use(error))
            return
        self._unread.is_over()
        self._network = network.eval()

    def _of_no_use(self, error: DataError | RuntimeError) -> tuple[str, str]:
        """Why a snapshot cannot be used, and what comes of it."""
        if isinstance(error, DataError):
            return str(error), "no looking ahead until one fits"
        told = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch's first line says nothing yet
        return f"{self.path}: {told}", "no looking ahead until one fits; give the Boss's own --model"

    def losses(self, ids: I64) -> F32:
        """Of these instances, shape ``(k,)``; call it once ``refresh`` has said that there is a snapshot."""
        import torch

        assert self._network is not None
        with torch.inference_mode():
            inputs, targets = self.workload.batch(ids.tolist())
            losses: F32 = self.workload.losses(self._network(inputs), targets).float().numpy()
        return losses


class LookAhead:
    """The thread that looks; ``offered`` and ``collect`` are for the Assistant's loop, and wait for nothing."""

    def __init__(self, boss: BossCopy) -> None:
        self.boss = boss
        self._ahead: Ahead | None = None
        self._found: deque[Fresh] = deque(maxlen=MOST_FOUND)
        self._changed = threading.Condition()
        self._is_over = False
        self._piece = 1
        """Instances that are given to the network together; as many as it takes ``PIECE_S`` for, ``CHUNK`` at most."""
        self._thread = threading.Thread(target=self._run, name="autoassist-look-ahead", daemon=True)

    def start(self, n: int, seed: int) -> None:
        """Once the run is known; another time, of a run that is joined anew, the order is begun anew."""
        with self._changed:
            self._ahead = Ahead(n, seed)
        if self._thread.ident is None:
            self._thread.start()

    def offered(self, window: Window) -> None:
        """The run is there now."""
        with self._changed:
            if self._ahead is not None and len(window.ids):
                self._ahead.offered(window.epoch, window.ids)
                self._changed.notify()

    def collect(self) -> list[Fresh]:
        """What was found since the last time."""
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def close(self) -> None:
        """End the thread, after the piece that it looks at."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        _come_last()
        try:
            while (ids := self._next()) is not None:
                losses = np.concatenate([self._look(piece) for piece in self._pieces(ids)])
                finite = np.isfinite(losses)
                self._found.append(Fresh(ids[: len(losses)][finite], losses[finite]))
        except AutoAssistError as error:
            log.warning("no looking ahead any more: %s", error)
        except Exception:
            log.exception("no looking ahead any more; selection goes on by what is known otherwise")

    def _pieces(self, ids: I64) -> Iterator[I64]:
        """All of them, or the first where it is over meanwhile."""
        yield ids[: (done := self._piece)]
        while done < len(ids) and not self._is_over:
            start, done = done, done + self._piece
            yield ids[start:done]

    def _look(self, piece: I64) -> F32:
        began_s = time.monotonic()
        losses = self.boss.losses(piece)
        in_time = int(PIECE_S * len(piece) / max(time.monotonic() - began_s, 1e-6))
        self._piece = max(1, min(in_time, GROWTH * self._piece, CHUNK))
        return losses

    def _next(self) -> I64 | None:
        """The next few to look at, once there are some and a snapshot; None at the end."""
        while True:
            has_snapshot = self.boss.refresh()
            with self._changed:
                if self._is_over:
                    return None
                ids = self._ahead.next() if has_snapshot and self._ahead is not None else None
                if ids is not None:
                    return ids
                self._changed.wait(None if has_snapshot else LOOK_S)


def _come_last() -> None:
    """Broker, Boss and the scoring come first. On Linux alone: elsewhere a thread has no priority of its own.

    Not SCHED_IDLE: on a host whose cores are all busy such a thread stands still for long, now and then with the
    interpreter in its hands, for which the Assistant's own thread then waits.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # Nobody but root may raise one again: of a process that is nicer yet it stays as it is.
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
