"""The Boss's checkpoints: written atomically, verified before they are read, read without running code.

A checkpoint belongs to a cut in the stream of steps: everything up to its step is in it and in the broker's snapshot of
the same step, nothing after it in either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from boss.feed import Feed
from boss.files import refused, write
from boss.ranks import comes_again
from protocol.errors import DataError, StoreError
from protocol.settings import require

log = logging.getLogger("autoassist.boss")

INDEX = "checkpoints.json"
STILL_COUNTS = "the one before it still counts"


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When and where the Boss saves itself."""

    checkpoint_every: int = 0
    """Steps between two checkpoints; 0 for none."""

    checkpoint_dir: Path | None = None
    """Directory of the checkpoints; the launcher puts it into the run directory."""

    checkpoint_keep: int = 2
    """How many are kept; the older ones are removed. At most 3: the broker keeps no more snapshots."""

    resume: bool = False
    """Go on from the newest checkpoint that is whole; from the beginning where there is none."""

    save: Path | None = None
    """File for the trained weights at the end of the run; the launcher puts it into the run directory."""

    def __post_init__(self) -> None:
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "must not be negative")
        require(1 <= self.checkpoint_keep <= 3, "checkpoint_keep", self.checkpoint_keep, "must lie in 1 … 3")
        needs_dir = self.checkpoint_every > 0 or self.resume
        require(
            not needs_dir or self.checkpoint_dir is not None, "checkpoint_dir", None, "give --checkpoint-dir as well"
        )


def under_elasticity(settings: CheckpointSettings) -> CheckpointSettings:
    """Where torchrun may start ranks again they go on from the newest checkpoint, the first time too: a rank of a node
    that joins cannot tell whether there was a time before it."""
    is_kept = settings.checkpoint_dir is not None
    return dataclasses.replace(settings, resume=True) if comes_again() and is_kept else settings


class Entry(msgspec.Struct, frozen=True):
    """One checkpoint in the index."""

    step: int
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class BossState:
    """Everything that the Boss needs to go on from a step as if nothing had happened."""

    step: int
    run: dict[str, Any]
    """Plain numbers and strings: run ID, epochs done, instances, clocks."""
    boss: dict[str, Any]
    optimizer: dict[str, Any]
    rng: dict[str, Any]


def capture(feed: Feed, boss: nn.Module, optimizer: torch.optim.Optimizer) -> BossState:
    """The Boss's state after the step that was reported last; all ranks call it at the same step."""
    rng: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state_all()
    if feed.settings.world_size > 1:
        states = feed.gather([_to_bytes(state) for state in (rng["cpu"], *rng.get("cuda", []))])
        rng["ranks"] = [[_from_bytes(raw) for raw in rank] for rank in states]
    return BossState(feed.steps - 1, feed.state_dict(), boss.state_dict(), optimizer.state_dict(), rng)


def restore(state: BossState, boss: nn.Module, optimizer: torch.optim.Optimizer, *, rank: int = 0) -> None:
    """Put a state back; raises DataError where it is of another model.

    Each rank goes on with its own random numbers; one that was not there before keeps those that it has.
    """
    try:
        boss.load_state_dict(state.boss)
        optimizer.load_state_dict(state.optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"checkpoint of step {state.step} is of another model: {reason}; give the same --model"
        ) from None
    of_ranks = state.rng.get("ranks", [[state.rng["cpu"], *state.rng.get("cuda", [])]])
    if rank >= len(of_ranks):
        return
    on_cpu, *on_gpus = of_ranks[rank]
    torch.set_rng_state(on_cpu)
    if torch.cuda.is_available() and on_gpus:
        torch.cuda.set_rng_state_all(on_gpus[: torch.cuda.device_count()])  # there may have been more


def _to_bytes(state: Tensor) -> bytes:
    return state.numpy().tobytes()


def _from_bytes(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


class CheckpointDir:
    """The checkpoints of one run. StoreError where there can be no such directory."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.keep = keep
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "give --checkpoint-dir a directory that can be made"
            raise StoreError(f"checkpoints: {refused(path, error)}; {remedy}") from error
        for left_over in path.glob("*.part"):  # of a Boss that was killed while it wrote
            left_over.unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """What the index names, oldest first."""
        try:
            return msgspec.json.decode((self.path / INDEX).read_bytes(), type=list[Entry])
        except FileNotFoundError:
            return []
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path / INDEX} is damaged: {error}; remove it to start afresh") from None

    def stage(self, state: BossState) -> tuple[Path, Entry]:
        """Write a checkpoint beside the others, not yet named by the index; ``publish`` makes it count."""
        part = self.path / f"boss-{state.step:09d}.{os.getpid()}.part"
        content = {
            "step": state.step,
            "run": state.run,
            "boss": state.boss,
            "optimizer": state.optimizer,
            "rng": state.rng,
        }
        write(content, part)
        return part, Entry(state.step, _name(state.step), _sha256(part))

    def publish(self, part: Path, entry: Entry) -> None:
        """The broker has its snapshot too: from now on this checkpoint is the newest.

        Raises OSError where the disk does not take it, DataError where the index is damaged.
        """
        kept = [e for e in self.entries() if e.step < entry.step] + [entry]
        part.replace(self.path / entry.file)
        self._write_index(kept[-self.keep :])
        for old in kept[: -self.keep]:
            with suppress(FileNotFoundError):
                (self.path / old.file).unlink()

    def _write_index(self, entries: list[Entry]) -> None:
        part = self.path / f"{INDEX}.{os.getpid()}.part"
        try:
            part.write_bytes(msgspec.json.encode(entries))
            part.replace(self.path / INDEX)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise

    def newest(self) -> BossState | None:
        """The newest checkpoint that is whole; a damaged one is refused by name and the one before it taken."""
        for state in self._readable():
            return state
        return None

    def _readable(self) -> Iterator[BossState]:
        for entry in reversed(self.entries()):
            path = self.path / entry.file
            if not path.exists() or _sha256(path) != entry.sha256:
                log.warning("checkpoint %s is damaged or missing and is refused; trying the one before it", path)
                continue
            content = _loaded(path)
            yield BossState(content["step"], content["run"], content["boss"], content["optimizer"], content["rng"])


class Saver:
    """Takes checkpoints of a Boss that trains from a feed."""

    def __init__(self, directory: CheckpointDir, every_steps: int) -> None:
        self.directory = directory
        self.every_steps = every_steps
        self._tried = 0
        self._was_read_back = False

    def is_due(self, feed: Feed) -> bool:
        """Whether the step that was just done asks for one."""
        is_new = feed.steps != self._tried
        return self.every_steps > 0 and is_new and feed.steps % self.every_steps == 0

    def save(self, feed: Feed, boss: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Write one; False, with a warning of rank 0's, where the broker or the disk does not let it count.

        The file counts only once the broker keeps its snapshot too, so neither is ever without the other. All ranks
        call it at the same step; rank 0 writes.
        """
        self._tried = feed.steps
        feed.until_done()  # only then is it known whether the losses were finite
        if why := first_reason(feed.gather(_why_not(feed))):
            return self._without(feed, why)
        staged: tuple[Path, Entry] | None = None
        with feed.clocks.checkpoint():
            state = capture(feed, boss, optimizer)
            if feed.rank == 0:
                staged, why = self._stage(state)
            if why := first_reason(feed.gather(why)):
                return self._without(feed, why)
        if not feed.cut():
            if staged is not None:
                staged[0].unlink(missing_ok=True)
            return self._without(feed, "the broker did not answer")
        return staged is None or self._publish(feed, *staged)

    def _publish(self, feed: Feed, part: Path, entry: Entry) -> bool:
        """From rank 0; False where the directory does not let it count."""
        try:
            self.directory.publish(part, entry)
            return True
        except OSError as error:
            why, left = self._unwritable(entry.step, error), STILL_COUNTS
        except DataError:
            index = self.directory.path / INDEX
            why, left = f"{index} is damaged", "remove it, and the next checkpoint counts; those before it do not"
        part.unlink(missing_ok=True)
        return self._without(feed, why, left)

    def _stage(self, state: BossState) -> tuple[tuple[Path, Entry] | None, str]:
        """Written, and the first one read back: what holds more than numbers, strings and tensors is never read."""
        part: Path | None = None
        try:
            part, entry = self.directory.stage(state)
            if not self._was_read_back:
                _require_readable(part)
                self._was_read_back = True
            return (part, entry), ""
        except OSError as error:
            return None, self._unwritable(state.step, error)
        except DataError as error:
            assert part is not None
            part.unlink(missing_ok=True)
            return None, str(error)

    def _unwritable(self, step: int, error: OSError) -> str:
        return f"{refused(self.directory.path / _name(step), error)}; free space there or make it writable"

    @staticmethod
    def _without(feed: Feed, why: str, left: str = STILL_COUNTS) -> bool:
        if feed.rank == 0:  # it is the same for all
            log.warning("no checkpoint of step %d: %s; %s", feed.steps - 1, why, left)
        return False


def _why_not(feed: Feed) -> str:
    """Why this rank cannot be saved now; "" where it can."""
    if not feed.is_connected:
        return "the broker is away"
    return "no loss is finite any more" if feed.has_diverged else ""


def first_reason(reasons: list[str]) -> str:
    """The first that is one, "" where none is."""
    return next((reason for reason in reasons if reason), "")


def open_checkpoints(settings: CheckpointSettings) -> tuple[Saver | None, BossState | None]:
    """What saves, and what to go on from; None where nothing is to be saved, or nothing is there to go on from."""
    if settings.checkpoint_dir is None:
        return None, None
    directory = CheckpointDir(settings.checkpoint_dir, settings.checkpoint_keep)
    saver = Saver(directory, settings.checkpoint_every) if settings.checkpoint_every else None
    state = directory.newest() if settings.resume else None
    if settings.resume:
        log.info("resuming from %s", f"the checkpoint of step {state.step}" if state else "the beginning")
    return saver, state


def _require_readable(path: Path) -> None:
    """Raises DataError where it holds what is not read; what cannot be mapped here is another matter."""
    try:
        _loaded(path, maps=True)
    except RuntimeError as error:
        log.debug("%s is not read back: %s", path, error)


def _loaded(path: Path, *, maps: bool = False) -> dict[str, Any]:
    """A checkpoint's content; its tensors are only mapped where they are not to be used.

    Raises DataError where it holds what is not read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=maps)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # of a module that nothing here is to import
            raise
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise DataError(
            f"{path} holds more than numbers, strings and tensors, and is not read ({reason.strip() or error}); keep "
            "other things out of the optimizer's settings and of get_extra_state"
        ) from None
    return content


def _name(step: int) -> str:
    return f"boss-{step:09d}.pt"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
