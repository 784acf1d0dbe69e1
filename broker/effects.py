"""What goes into the broker's core, and what comes out.

Structs, since some thirty are made a cycle: a frozen dataclass takes six times as long to make.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from broker.rows import Row, WindowRecord
from protocol.arrays import I64
from protocol.messages import AnyMessage, Batch, Hello, LossRecord
from protocol.token_batches import I32

# Events


class HelloReceived(msgspec.Struct, frozen=True):
    """A role asks to join; ``reachable`` names whether an older incarnation of it still shows signs of life."""

    hello: Hello
    fresh: bool  # the role has nothing of the broker's stream: send it again what it should hold
    alive_elsewhere: bool = False
    restored: bool = False  # the run was just taken back to the checkpoint that the Hello asks for


class MessageReceived(msgspec.Struct, frozen=True):
    """A member says something."""

    name: str
    message: AnyMessage
    seq: int = 0


class PeerLost(msgspec.Struct, frozen=True):
    """A member is silent for too long, or its connection is gone."""

    name: str


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class StopRequested(msgspec.Struct, frozen=True):
    """Somebody asks the broker to end the run."""

    reason: Literal["stopped", "failed"] = "stopped"
    detail: str = ""


class LengthsKept(msgspec.Struct, frozen=True):
    """The lengths of all instances are on disk; ``lengths`` need not be in memory."""

    lengths: I32


class RecordsUnreadable(msgspec.Struct, frozen=True):
    """Records ``start … stop-1`` of the loss log, which were to be sent to a member, are damaged on the disk."""

    name: str
    start: int
    stop: int


Event = HelloReceived | MessageReceived | PeerLost | Tick | StopRequested | LengthsKept | RecordsUnreadable

# Effects

RefusalCode = Literal[
    "wait", "version", "dataset", "settings", "duplicate", "malformed", "restore", "fenced", "taken", "elsewhere", "key"
]


class Send(msgspec.Struct, frozen=True):
    """Say this to a member."""

    name: str
    message: AnyMessage


class SendRecords(msgspec.Struct, frozen=True):
    """Send the loss log's records ``start … stop-1`` to a member; the core does not hold them."""

    name: str
    start: int
    stop: int


class Admit(msgspec.Struct, frozen=True):
    """The Hello is accepted."""

    name: str
    index: int
    position: int
    committed: int


class Refuse(msgspec.Struct, frozen=True):
    """The Hello is not accepted."""

    name: str
    code: RefusalCode
    reason: str
    remedy: str


class Put(msgspec.Struct, frozen=True):
    """Write a row."""

    kind: str
    key: str
    row: Row


class Delete(msgspec.Struct, frozen=True):
    """Remove a row."""

    kind: str
    key: str


class AppendLoss(msgspec.Struct, frozen=True):
    """Append a record to the loss log."""

    record: LossRecord


class AppendBatch(msgspec.Struct, frozen=True):
    """Append a finished batch to the batch log."""

    batch: Batch


class AppendWindow(msgspec.Struct, frozen=True):
    """Append a window that was decided to the window log."""

    record: WindowRecord


class KeepLengths(msgspec.Struct, frozen=True):
    """Keep the lengths of instances ``start …``; with ``is_last`` all are there, and ``LengthsKept`` brings them."""

    start: int
    values: I64
    n: int
    is_last: bool


class TakeSnapshot(msgspec.Struct, frozen=True):
    """Keep all rows and the logs' lengths, as they are with this commit, under ``step``."""

    step: int


class RestoreSnapshot(msgspec.Struct, frozen=True):
    """Take the run back to the snapshot of ``step`` (-1: to its beginning), then handle the Hello again."""

    step: int


class RunEnded(msgspec.Struct, frozen=True):
    """Nothing is left to do; write the report and leave once everybody has said Goodbye."""

    reason: Literal["finished", "stopped", "failed"]


Effect = (
    Send
    | SendRecords
    | Admit
    | Refuse
    | Put
    | Delete
    | AppendLoss
    | AppendBatch
    | AppendWindow
    | KeepLengths
    | TakeSnapshot
    | RestoreSnapshot
    | RunEnded
)
