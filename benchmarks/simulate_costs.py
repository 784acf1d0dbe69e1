"""What an iteration of the broker's loop costs: its work, counted, times a price for each kind of it.

The work is counted from what the real core is told and from what it answers; nothing is coded, stored or sent for it.
The prices are settings, and ``benchmarks.simulate_measure`` measures them on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import msgspec
import numpy as np

from broker.effects import AppendBatch, AppendLoss, AppendWindow, Delete, Effect, Put
from broker.rows import ReportsRow, Row, StepRow, WindowRow
from protocol.arrays import I64
from protocol.messages import AnyMessage, Batch, LossRecord, Selection, Window

PLAIN_BYTES = 60
"""Of a message or a row without its arrays."""
SEGMENT_BYTES = 40
RECORD_INSTANCE_BYTES = 16
"""ID, loss and keep probability."""
RUN_BYTES = 600
"""Of the rows that have no arrays, the run's is the longest."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """µs of the broker's thread, for each of what is counted. The defaults are as ``--measure`` printed them."""

    iteration_us: float = 40.0
    """An iteration of the poll loop: poll, commit, and what it does though nothing has come."""

    role_us: float = 0.096
    """A connected role, in each iteration."""

    received_us: float = 6.9
    """A message received."""

    sent_us: float = 4.6
    """A message sent."""

    row_us: float = 10.4
    """A row written to the store, and each report in it."""

    record_us: float = 4.3
    """A loss record made and logged."""

    record_role_us: float = 0.0
    """The same, for each connected role: nothing since the core keeps its Assistants apart from the ranks."""

    read_us: float = 4.6
    """A loss record looked up again, for an Assistant that was out of credit when it was made."""

    batch_us: float = 88.0
    """A batch cut."""

    window_us: float = 0.0
    """A window leased, judged, or decided: each of these. What it costs was found in its candidates and its batch."""

    instance_us: float = 0.07
    """A candidate in it."""

    kilobyte_us: float = 0.84
    """1,000 bytes received, sent, or written."""

    statistics_role_us: float = 1.25
    """A connected role, each time that the statistics are published, twice a second."""

    def of(self, work: Work) -> float:
        """Seconds of the broker's thread."""
        return sum(price * count for price, count in zip(self.prices(), work.counts(), strict=True)) / 1e6

    def prices(self) -> list[float]:
        """In the order of ``Work.counts``."""
        return [getattr(self, f.name) for f in fields(self)]


NAMES = [f.name for f in fields(Costs)]


@dataclass(slots=True)
class Work:
    """What one iteration of the loop has to do."""

    roles: int
    received: int = 0
    sent: int = 0
    records: int = 0
    reads: int = 0
    batches: int = 0
    windows: int = 0
    instances: int = 0
    size: int = 0
    """Bytes of all that is received, sent and appended to logs."""
    statistics: int = 0
    rows: dict[tuple[str, str], Row | None] = field(default_factory=dict)
    """The last state of each row that is written."""

    def receive(self, message: AnyMessage) -> None:
        """A message is taken."""
        self.received += 1
        self.size += size_of(message)
        if isinstance(message, Selection):
            self._see(message.kept_ids)

    def send(self, message: AnyMessage) -> None:
        """A message is sent."""
        self.sent += 1
        self.size += size_of(message)
        if isinstance(message, Window):
            self._see(message.ids)
        elif isinstance(message, Batch):
            self.batches += 1

    def store(self, effects: Iterable[Effect]) -> None:
        """Rows and log records of these effects are written with the next commit."""
        for effect in effects:
            match effect:
                case Put(kind, key, row):
                    self.rows[kind, key] = row
                case Delete(kind, key):
                    self.rows[kind, key] = None
                case AppendLoss(record):
                    self.records += 1
                    self.size += size_of(record)
                case AppendBatch(batch):
                    self.size += size_of(batch)
                case AppendWindow(window):
                    self._see(window.ids)
                    self.size += PLAIN_BYTES + window.ids.nbytes

    def _see(self, ids: I64) -> None:
        self.windows += 1
        self.instances += len(ids)

    def counts(self) -> list[float]:
        """One for each price, in the order of ``Costs``."""
        arrays = sum(len(row.losses) for row in self.rows.values() if isinstance(row, ReportsRow))
        kilobytes = (self.size + sum(map(_row_size, self.rows.values()))) / 1000
        looked_at = self.records * self.roles
        rows = len(self.rows) + arrays
        statistics = self.statistics * self.roles
        made = (self.records, looked_at, self.reads, self.batches, self.windows, self.instances)
        return [float(count) for count in (1, self.roles, self.received, self.sent, rows, *made, kilobytes, statistics)]


def size_of(message: msgspec.Struct) -> int:
    """Bytes of a message, about."""
    if isinstance(message, LossRecord):  # by far the most frequent one
        return PLAIN_BYTES + RECORD_INSTANCE_BYTES * len(message.ids)
    values = [getattr(message, name) for name in message.__struct_fields__]
    size = PLAIN_BYTES + sum(value.nbytes for value in values if isinstance(value, np.ndarray))
    if isinstance(message, Batch):
        size += SEGMENT_BYTES * len(message.segments) + len(message.rank_counts)
    return size


def _row_size(row: Row | None) -> int:
    match row:
        case StepRow(batch=batch):
            return size_of(batch)
        case ReportsRow():
            return PLAIN_BYTES + sum(losses.nbytes for losses in row.losses.values())
        case WindowRow():
            return PLAIN_BYTES + row.kept_ids.nbytes + row.keep_probabilities.nbytes
        case None:
            return 0
    return RUN_BYTES
