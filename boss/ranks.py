"""The ranks of one Boss among themselves: torch.distributed does it, over gloo groups apart from the training's own.

Two groups, since a group serves one thread: one carries the stream of items in a thread of its own, the other what the
training threads agree on at a checkpoint.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgpack
import torch
import torch.distributed as dist

from protocol.codec import decode, encode
from protocol.errors import FeedMisuse, RankLost, SettingError
from protocol.messages import Batch, Envelope, EpochEnd, Stop
from protocol.settings import RunSettings
from protocol.signals import ending_at_once

log = logging.getLogger("autoassist.boss")

SILENCE_S = 60.0
"""How long a rank whose connection holds may say nothing in the stream until the others give up: it is suspended, or
cut off."""
PATIENCE_S = 86400.0
"""The same for what the training threads agree on: one of them may be evaluating, or still loading its data."""
AWAITED_S = 10.0
"""How long a rank waits for others to appear before it says so."""
ASK_S = 0.05
"""How often a rank that waits for others to connect asks for them."""
_MEETINGS = itertools.count()


@dataclass(frozen=True, slots=True)
class Heard:
    """What one exchange between the ranks has brought."""

    items: list[Batch | EpochEnd | Stop]
    wants_stop: bool
    """Whether some rank asks for the run's end."""
    fails: bool
    """Whether some rank leaves since it has failed."""


class RankGroup:
    """All ranks of this Boss. Made by all of them; blocks until all are there, for ``PATIENCE_S`` at most.

    Raises RankLost wherever another rank is gone or, from then on, silent for ``SILENCE_S``.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        with _together("make a group"):
            _meet(self.rank, self.world_size)
            # A group's timeout is that of its making too: the first one waits for whoever is late after all.
            self._control = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_S))
            self._stream = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE_S))

    def exchange(self, items: list[Batch | EpochEnd | Stop], *, wants_stop: bool, fails: bool) -> Heard:
        """Rank 0's items to all; every rank calls it equally often, from the stream's thread."""
        payload = _pack(items) if self.rank == 0 else b""
        header = torch.tensor([len(payload), int(wants_stop), int(fails)], dtype=torch.int64, device="cpu")
        with _together("share the stream of steps"):
            dist.all_reduce(header, group=self._stream)
            size, wanted, failed = int(header[0]), bool(header[1]), bool(header[2])
            if not size:
                return Heard([], wanted, failed)
            body = torch.empty(size, dtype=torch.uint8, device="cpu")
            if self.rank == 0:
                body = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            dist.broadcast(body, src=dist.get_global_rank(self._stream, 0), group=self._stream)
        return Heard(items if self.rank == 0 else _unpack(body.numpy().tobytes()), wanted, failed)

    def agree(self, ok: bool) -> bool:
        """Whether it is so on every rank. From the training thread."""
        flag = torch.tensor([int(ok)], dtype=torch.int64, device="cpu")
        with _together("agree"):
            dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=self._control)
        return bool(flag[0])

    def tell(self, value: Any) -> Any:
        """Rank 0's value (whatever msgpack takes), on every rank. From the training thread."""
        return self.gather(value if self.rank == 0 else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (whatever msgpack takes), by rank. From the training thread."""
        raw = torch.frombuffer(bytearray(msgpack.packb(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64, device="cpu") for _ in range(self.world_size)]
        with _together("gather"):
            dist.all_gather(sizes, torch.tensor([len(raw)], device="cpu"), group=self._control)
            longest = max(int(size) for size in sizes)
            parts = [torch.empty(longest, dtype=torch.uint8, device="cpu") for _ in sizes]
            dist.all_gather(parts, torch.nn.functional.pad(raw, (0, longest - len(raw))), group=self._control)
        return [msgpack.unpackb(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]


def _meet(rank: int, world_size: int) -> None:
    """Until all ranks are here. The store is asked again and again: while it waits itself no signal is heard, stores of
    some kinds say nothing of why they stopped, and torch writes two lines of its own for each wait that was in vain."""
    kept = dist.distributed_c10d._get_default_store()
    store = dist.PrefixStore(f"autoassist-{next(_MEETINGS)}", kept)  # type: ignore[attr-defined]
    names = [str(other) for other in range(world_size)]
    store.set(names[rank], "here")
    began, has_looked = time.monotonic(), False
    pause = threading.Event()
    while not store.check(names):
        pause.wait(ASK_S)
        waited_s = time.monotonic() - began
        if waited_s > PATIENCE_S:
            raise RuntimeError(f"some of {world_size} ranks have not come within {PATIENCE_S:.0f} s")
        if waited_s > AWAITED_S and not has_looked:
            has_looked = True
            missing = [name for name in names if not store.check([name])]
            if missing and all(name in missing for name in names[:rank]):  # one speaks for all that wait
                words = "rank %s of %d: not there yet after %.0f s; the others wait until it connects its feed"
                log.warning(words, ", ".join(missing), world_size, waited_s)


@contextmanager
def _together(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankLost(f"another rank is gone or silent, so the ranks cannot {what} ({reason})") from error


def _pack(items: list[Batch | EpochEnd | Stop]) -> bytes:
    if not items:
        return b""
    packed: bytes = msgpack.packb([encode(Envelope(seq=0, span=1, ack=0, message=item)) for item in items])
    return packed


def _unpack(raw: bytes) -> list[Batch | EpochEnd | Stop]:
    items: list[Batch | EpochEnd | Stop] = []
    for frames in msgpack.unpackb(raw):
        message = decode(frames).message
        assert isinstance(message, Batch | EpochEnd | Stop)
        items.append(message)
    return items


def ranks_here() -> int:
    """How many ranks this process is one of, by torch.distributed; 1 without it.

    Raises FeedMisuse where a launcher has started several and nobody has called ``init_process_group``.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if (launched := os.environ.get("WORLD_SIZE", "1")) not in ("", "1") and "RANK" in os.environ:
        raise FeedMisuse(
            f"WORLD_SIZE={launched}: several ranks are launched, and torch.distributed is not initialised; call "
            "torch.distributed.init_process_group() before the feed is connected"
        )
    return 1


def comes_again() -> bool:
    """Whether torchrun starts this rank again after it has ended it, in a group of as many ranks or of others.

    It ends ranks with SIGTERM, then SIGKILL after 30 s, where another rank has failed or a node joins: that is no wish
    that the run ends. What cannot be told apart from it is SIGTERM to torchrun itself, which it passes on.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def require_ranks(world_size: int, given: int) -> None:
    """Raise SettingError where the run's settings have another number of ranks than there are."""
    if world_size != given:
        raise SettingError(
            f"world_size={world_size}: this Boss has {given} rank{'s' if given > 1 else ''}; start as many with "
            f"torchrun --nproc-per-node {world_size}, or leave world_size out"
        )


def group_of(settings: RunSettings) -> RankGroup | None:
    """All ranks of this Boss; None for one alone. Raises SettingError where the settings have another number."""
    ranks = ranks_here()
    require_ranks(settings.world_size, ranks)
    return RankGroup() if ranks > 1 else None


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """torch.distributed for the time of a training, where a launcher such as torchrun has started several ranks.

    While they look for each other a signal ends this one: nothing is at stake yet, and no handler could run. Raises
    SettingError where the launcher has not said where they meet.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        yield
        return
    place = _meeting_place()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with ending_at_once(), _saying_that_it_waits(place), _together("find each other"):
        _find_each_other("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meeting_place() -> str:
    """Where the ranks find each other, by the environment."""
    remedy = "start with torchrun, or unset RANK and WORLD_SIZE"
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise SettingError(f"RANK is set and {name} is not: {remedy}")
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ[name].isdecimal():
            raise SettingError(f"{name}={os.environ[name]}: must be a whole number; {remedy}")
    rank, world_size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= world_size:
        raise SettingError(f"RANK={rank}: must be below WORLD_SIZE={world_size}; {remedy}")
    if port >= 2**16:
        raise SettingError(f"MASTER_PORT={port}: must be below 65536; {remedy}")
    return f"{os.environ['MASTER_ADDR']}:{port}"


@contextmanager
def _saying_that_it_waits(place: str) -> Iterator[None]:
    """Once, where it takes long; from another thread, since this one is amid torch's code."""
    words = "rank %s is waiting for the other ranks of WORLD_SIZE=%s at MASTER_ADDR:MASTER_PORT %s"
    said = (words, os.environ["RANK"], os.environ["WORLD_SIZE"], place)
    timer = threading.Timer(AWAITED_S, log.warning, said)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _find_each_other(backend: str) -> None:
    store, rank, world_size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # It is kept when the ranks are started again: without this they would look for those before. Nodes that joined
        # at different times count differently, and so need a store of each attempt's own.
        count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt-{count}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
