"""The loss log's last records, for Assistants that were out of credit for a moment: reading them again costs most."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from protocol.messages import LossRecord

INSTANCES = 1 << 16
"""Most that are kept, 16 bytes each; those of the last two steps are kept however many they are."""
LEAST = 32
"""Instances as which a record counts that has fewer, by its own size."""


@dataclass(slots=True)
class Recent:
    """Records side by side, up to the log's end."""

    _records: deque[LossRecord] = field(default_factory=deque)
    _instances: int = 0

    def append(self, record: LossRecord) -> None:
        """The log has one more."""
        self._records.append(record)
        self._instances += max(LEAST, len(record.ids))
        while self._instances > INSTANCES and self._records[0].step < record.step - 1:
            self._instances -= max(LEAST, len(self._records.popleft().ids))

    def of(self, start: int, stop: int) -> Iterator[LossRecord] | None:
        """Records ``start … stop-1``; None where they are not all here."""
        first = self._records[0].position if self._records else stop
        if start < first or stop > first + len(self._records):
            return None
        return islice(self._records, start - first, stop - first)
