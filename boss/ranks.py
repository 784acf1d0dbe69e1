"""The ranks of one Boss among themselves: torch.distributed does it, over gloo groups apart from the training's own.

Two groups, since a group serves one thread: one carries the stream of items in a thread of its own, the other what the
training threads agree on at a checkpoint.
"""

from __future__ import annotations

import logging
import os
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

log = logging.getLogger("autoassist.boss")

SILENCE_S = 60.0
"""How long a rank whose connection holds may say nothing in the stream until the others give up: it is suspended, or
cut off."""
PATIENCE_S = 86400.0
"""The same for what the training threads agree on: one of them may be evaluating."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one exchange between the ranks has brought."""

    items: list[Batch | EpochEnd | Stop]
    wants_stop: bool
    """Whether some rank asks for the run's end."""
    fails: bool
    """Whether some rank leaves since it has failed."""


class RankGroup:
    """All ranks of this Boss. Made by all of them at once; blocks until all are there.

    Raises RankLost wherever another rank is gone or silent for ``SILENCE_S``.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        with _together("make a group"):
            self._stream = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE_S))
            self._control = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_S))

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
    """torch.distributed for the time of a training, where a launcher such as torchrun has started several ranks."""
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _together("find each other"):
        store, rank, world_size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # It is kept when the ranks are started again: without this they would look for those before. Nodes that
            # joined at different times count differently, and so need a store of each attempt's own.
            count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"attempt-{count}", store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
