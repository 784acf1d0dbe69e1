"""What goes into the broker's core, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from broker.rows import Row, WindowRecord
from protocol.messages import AnyMessage, Batch, Hello, LossRecord

# Events


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """A role asks to join; ``reachable`` names whether an older incarnation of it still shows signs of life."""

    hello: Hello
    fresh: bool  # the role has nothing of the broker's stream: send it again what it should hold
    alive_elsewhere: bool = False
    restored: bool = False  # the run was just taken back to the checkpoint that the Hello asks for


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A member says something."""

    name: str
    message: AnyMessage
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A member is silent for too long, or its connection is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody asks the broker to end the run."""

    reason: Literal["stopped", "failed"] = "stopped"
    detail: str = ""


Event = HelloReceived | MessageReceived | PeerLost | Tick | StopRequested

# Effects

RefusalCode = Literal[
    "wait", "version", "dataset", "settings", "duplicate", "malformed", "restore", "fenced", "taken", "elsewhere", "key"
]


@dataclass(frozen=True, slots=True)
class Send:
    """Say this to a member."""

    name: str
    message: AnyMessage


@dataclass(frozen=True, slots=True)
class SendRecords:
    """Send the loss log's records ``start … stop-1`` to a member; the core does not hold them."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Admit:
    """The Hello is accepted."""

    name: str
    index: int
    position: int
    committed: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The Hello is not accepted."""

    name: str
    code: RefusalCode
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write a row."""

    kind: str
    key: str
    row: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a row."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class AppendLoss:
    """Append a record to the loss log."""

    record: LossRecord


@dataclass(frozen=True, slots=True)
class AppendBatch:
    """Append a finished batch to the batch log."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class AppendWindow:
    """Append a window that was decided to the window log."""

    record: WindowRecord


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Keep all rows and the logs' lengths, as they are with this commit, under ``step``."""

    step: int


@dataclass(frozen=True, slots=True)
class RestoreSnapshot:
    """Take the run back to the snapshot of ``step`` (-1: to its beginning), then handle the Hello again."""

    step: int


@dataclass(frozen=True, slots=True)
class RunEnded:
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
    | TakeSnapshot
    | RestoreSnapshot
    | RunEnded
)
