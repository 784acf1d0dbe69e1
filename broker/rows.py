"""The broker's state, as the rows in which the run store keeps it. Nothing else is state; the rest is derived."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from protocol.arrays import F32, I64, empty_f32, empty_i64, pack_array, unpack_array
from protocol.messages import Batch, EpochResult
from protocol.settings import RunSettings


class RunRow(msgspec.Struct, kw_only=True):
    """The run itself; one row."""

    run_id: str
    settings: RunSettings
    dataset_id: str
    n: int
    workload: str = ""  # what the Boss calls it
    off_plan_steps: int = 0  # trained by the Boss on its own while no batch came
    # [start, stop) of their numbers, and of those that were given back
    off_plan_ranges: list[tuple[int, int]] = msgspec.field(default_factory=list)
    generation: int = 0  # how often it was taken back to a checkpoint
    fenced: list[str] = msgspec.field(default_factory=list)  # incarnations of what came after that checkpoint
    next_window: int = 0  # the first window that was never leased or passed
    next_step: int = 0
    cut_epoch: int = 0  # the epoch whose stock is being cut
    next_order: int = 0  # place of the next window in the stock
    instances_cut: int = 0
    instances_trained: int = 0
    reported_step: int = -1  # the highest step of the plan that rank 0 has reported
    log_step: int = 0  # the loss log's next record is (log_step, log_rank)
    log_rank: int = 0
    log_records: int = 0
    log_origin: tuple[int, int] = (0, 0)  # (position, step) since which a step has as many records as there are ranks
    cut_origin: tuple[int, int] = (0, 0)  # (instances, step) since which steps are cut for as many ranks as there are
    pass_rate: float = 1.0
    cutting_done: bool = False
    ended: Literal["", "finished", "stopped", "failed"] = ""
    counters: dict[str, float] = msgspec.field(default_factory=dict)
    staleness_counts: dict[int, int] = msgspec.field(default_factory=dict)  # batches by staleness
    boss_figures: dict[str, float] = msgspec.field(default_factory=dict)
    lengths_id: str = ""  # names the instances' lengths, where batches are cut by tokens
    lengths_kept: int = 0  # of how many instances, from the first, the length is kept
    pool_order: int = -1  # windows in the line up to this place in the stock are in the pool that is being cut
    pool_number: int = -1  # counts the pools
    pool_offered: int = 0  # instances that were offered, over all epochs, up to the pool's newest window


class WindowRow(msgspec.Struct, kw_only=True):
    """A window from its first lease until its last instance is cut."""

    window: int
    state: Literal["open", "leased", "stocked"] = "open"
    attempt: int = 0
    assistant: str = ""  # holds the lease, or has selected; "" where the window passed unfiltered
    progress: float = 0.0  # of the run when it was leased
    order: int = -1  # place in the stock
    kept_ids: I64 = msgspec.field(default_factory=empty_i64)
    keep_probabilities: F32 = msgspec.field(default_factory=empty_f32)
    taken: int = 0  # how many of the kept are cut
    version: int = 0
    learned_through: int | None = None
    learn_through: int = -2  # deterministic mode's order to the Assistant
    is_part: bool = False  # cut anew: some of it may have been trained, and is not among the kept any more


class StepRow(msgspec.Struct, kw_only=True):
    """A batch from its cut until all ranks have reported it and the loss log has it. Long, so it is written once."""

    batch: Batch
    reported: list[int] = msgspec.field(default_factory=list)  # ranks; earlier versions wrote reports here
    losses: dict[int, F32] = msgspec.field(default_factory=dict)  # theirs by rank, where they are not in the log


class ReportsRow(msgspec.Struct, kw_only=True):
    """Reports of a step that wait for others before them: what came between two commits."""

    step: int
    part: int  # counts the step's rows of this kind
    losses: dict[int, F32] = msgspec.field(default_factory=dict)  # by rank

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{self.step}.{self.part}"


class PeerRow(msgspec.Struct, kw_only=True):
    """A role that has said Hello."""

    name: str
    role: Literal["boss", "assistant"]
    incarnation: str
    rank: int = 0
    index: int = 0
    committed: int = 0  # highest number of its stream that is in the store
    counters: dict[str, float] = msgspec.field(default_factory=dict)
    figures: dict[str, float] = msgspec.field(default_factory=dict)
    set_aside: list[int] = msgspec.field(default_factory=list)  # IDs, as it said in its Goodbye
    has_left: bool = False  # it has said Goodbye


class EpochRow(msgspec.Struct, kw_only=True):
    """What is known of an epoch that was offered, or is being offered."""

    epoch: int
    offered: int = 0
    kept: int = 0
    unfiltered: int = 0  # of the offered, those that passed without an Assistant
    after_step: int = -1
    closed_windows: int = 0
    ended: bool = False
    result: EpochResult | None = None


class WindowRecord(msgspec.Struct, kw_only=True):
    """How a window was decided, for the window log: as of that moment, and never changed after.

    What is kept of the window may grow later: a selection that becomes too stale in stock is reopened, and then all
    that it had shrunk and nobody had trained passes too. What the Boss gives back passes again, but is no new offer.
    """

    window: int
    epoch: int
    ids: I64  # all that were offered, in the epoch's order
    kept: int  # how many of them were put in stock
    assistant: str = ""  # "" where the window passed unfiltered
    version: int = 0
    learned_through: int | None = None
    reason: str = ""  # why it passed unfiltered; "" where an Assistant selected


Row = RunRow | WindowRow | StepRow | ReportsRow | PeerRow | EpochRow
KINDS: dict[str, type[Row]] = {
    "run": RunRow,
    "window": WindowRow,
    "step": StepRow,
    "reports": ReportsRow,
    "peer": PeerRow,
    "epoch": EpochRow,
}


def _to_bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return list(pack_array(value))
    raise TypeError(f"{type(value).__name__} has no place in a row")


def _from_bytes(expected: type, value: Any) -> Any:
    return unpack_array(expected, *value)


def encode_row(row: msgspec.Struct) -> bytes:
    """Row to msgpack."""
    return msgspec.msgpack.encode(row, enc_hook=_to_bytes)


def decode_row(kind: str, raw: bytes) -> Row:
    """msgpack to row; raises msgspec.ValidationError for anything else."""
    return msgspec.msgpack.decode(raw, type=KINDS[kind], dec_hook=_from_bytes)


def decode_window_record(raw: bytes) -> WindowRecord:
    """msgpack to a record of the window log; raises msgspec.ValidationError for anything else."""
    return msgspec.msgpack.decode(raw, type=WindowRecord, dec_hook=_from_bytes)
