"""The process that looks ahead: the Boss's network over what is soon to be offered, on idle time alone.

Its Assistant starts it, tells it where the run is, and collects what it finds. It ends with its Assistant, however that
ends. A process and no thread, since on idle time it may stand still for long: nothing of the Assistant's is in its
hands then. Where broker and Assistant keep to the cores that the Boss leaves free, so does this process.
"""

from __future__ import annotations

import logging
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assistant.ahead import CHUNK, Ahead, Offered
from assistant.boss_copy import BossCopy
from protocol.arrays import F32, I64
from protocol.errors import AutoAssistError, DataError
from protocol.processes import ask_nothing_of_the_terminal, die_with_parent
from protocol.trouble import Trouble

log = logging.getLogger("autoassist.assistant")

OFFERED = struct.Struct("<4q")
"""How an ``Offered`` is told: so few bytes that it comes whole or not at all."""
START_NICENESS = 10
"""Until it has looked for the first time: on idle time alone, torch and the data could take minutes on a host whose
cores are all busy, and a lock on the data be held as long."""
LOOK_S = 0.2
"""How often it looks for the first snapshot."""
PIECE_S = 0.25
"""How long it looks before it hears where the run is by now."""
GROWTH = 4
"""How much larger a piece may be than the last one: the first is one instance, for nothing is known of it."""
MOST_SAID = 1200
"""Bytes of each end of a log message: so it comes whole, too."""


class Fresh(NamedTuple):
    """Losses of some instances under a snapshot, shape ``(k,)`` both; at most ``CHUNK``."""

    ids: I64
    losses: F32


class Said(NamedTuple):
    """For the Assistant's log."""

    level: int
    text: str


class Looking:
    """What to look at next, and the looking; ``offered`` is for another thread."""

    def __init__(self, boss: BossCopy, n: int, seed: int) -> None:
        self.boss = boss
        self._ahead = Ahead(n, seed)
        self._changed = threading.Condition()
        self._piece = 1
        """Instances that are given to the network together; as many as it takes ``PIECE_S`` for, ``CHUNK`` at most."""
        self._in_vain = 0
        """Instances since the last one with a finite loss."""
        self._no_losses = Trouble(log)

    def offered(self, offered: Offered) -> None:
        """The run is there now."""
        with self._changed:
            self._ahead.offered(offered)
            self._changed.notify()

    def found(self) -> Iterator[Fresh]:
        """One piece after the other, without an end; what is not finite is left out."""
        while True:
            ids = self._next()
            began_s = time.monotonic()
            losses = self.boss.losses(ids)
            in_time = int(PIECE_S * len(ids) / max(time.monotonic() - began_s, 1e-6))
            self._piece = max(1, min(in_time, GROWTH * self._piece, CHUNK))
            finite = np.isfinite(losses)
            self._tell(finite)
            yield Fresh(ids[finite], losses[finite])

    def _tell(self, finite: NDArray[np.bool_]) -> None:
        """An instance without a finite loss is left out and no more said; nothing but such is worth a word."""
        if finite.any():
            self._in_vain = 0
            self._no_losses.is_over()
            return
        self._in_vain += len(finite)
        if self._in_vain >= CHUNK:
            what = f"looking ahead with {self.boss.path} finds no finite losses, of {self._in_vain} instances in a row"
            self._no_losses.met(what, "it is of no use so; see what the network gives in eval mode")

    def _next(self) -> I64:
        """The next few, once there are some and a snapshot."""
        while True:
            has_snapshot = self.boss.refresh()
            with self._changed:
                ids = self._ahead.next(self._piece) if has_snapshot else None
                if ids is not None:
                    return ids
                self._changed.wait(None if has_snapshot else LOOK_S)


class _ToAssistant(logging.Handler):
    """What is logged here is the Assistant's to log."""

    def __init__(self, up: Connection) -> None:
        super().__init__()
        self._up = up

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        with suppress(OSError):  # without an Assistant nobody hears it
            self._up.send(Said(record.levelno, _shortened(text)))


def _shortened(text: str) -> str:
    """Its beginning and its end: what has happened, and where."""
    content = text.encode()
    if len(content) <= 2 * MOST_SAID:
        return text
    ends = (content[:MOST_SAID], content[-MOST_SAID:])
    return " … ".join(end.decode(errors="ignore") for end in ends)


def look(heard: int, said: int, assistant: int) -> None:
    """The process: look until the Assistant is gone, and end at once then.

    ``heard`` and ``said`` are the pipes' file descriptors, private between the two: what is heard begins with
    (load, path, dataset_id, n, seed), and packed ``Offered``s follow; said are ``Fresh`` and ``Said``. ``assistant`` is
    the ID of its process.
    """
    die_with_parent(assistant, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):  # what goes to all processes is the Assistant's to hear
        signal.signal(number, signal.SIG_IGN)
    ask_nothing_of_the_terminal()
    os.nice(max(0, START_NICENESS - os.nice(0)))
    _go_first_where_memory_ends()
    down, up = Connection(heard, writable=False), Connection(said, readable=False)
    logging.getLogger("autoassist").addHandler(logging.NullHandler())  # of the WORKLOAD all has been said
    log.addHandler(_ToAssistant(up))
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        _look(down, up)
    except (BrokenPipeError, EOFError):
        pass  # nobody is there any more
    except AutoAssistError as error:
        log.warning("no looking ahead any more: %s", error)
    except Exception:
        log.exception("no looking ahead any more; selection goes on by what is known otherwise")
    os._exit(0)  # on idle time, taking torch down could take long


def _look(down: Connection, up: Connection) -> None:
    load, path, dataset_id, n, seed = down.recv()
    workload = load()
    if (here := workload.fingerprint().dataset_id) != dataset_id:
        raise DataError(f"the data has become {here!r}, and the Assistant has {dataset_id!r}; start the Assistant anew")
    looking = Looking(BossCopy(workload, path), n, seed)
    threading.Thread(target=_listen, args=(down, looking), daemon=True).start()  # stays as nice as it is now
    found = looking.found()
    up.send(next(found))  # torch, the network and the data come with it
    _come_last()
    for fresh in found:
        up.send(fresh)


def _listen(down: Connection, looking: Looking) -> None:
    try:
        while True:
            looking.offered(Offered(*OFFERED.unpack(down.recv_bytes())))
    finally:
        os._exit(0)  # the Assistant is gone, and whatever is being looked at is for nobody


def _come_last() -> None:
    """Broker, Boss and the scoring come first, before this thread."""
    if sys.platform == "linux":
        with suppress(OSError):  # some containers forbid it or do not know it; its niceness it has
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _go_first_where_memory_ends() -> None:
    """A run does without this process, and not without its Boss."""
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
