"""Who speaks before its Hello: a stranger, or a role whose broker has just been started again. Time tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_LINES = 1024
"""Lines that are waited for; with one more, those that are waited for longest count as strangers."""


@dataclass(slots=True)
class Strangers:
    """Messages on lines without a Hello, until one follows there or is overdue."""

    patience_s: float
    _waiting: dict[bytes, tuple[float, int]] = field(default_factory=dict)
    """Line → when it spoke first, and how often it has since; in the order of the former."""
    _gone: dict[bytes, None] = field(default_factory=dict)
    """Lines of roles that are gone, the newest last: what was on its way when they left is no stranger's."""

    def heard(self, line: bytes, now: float) -> None:
        """A message without a Hello before it."""
        if line in self._gone:
            return
        since, count = self._waiting.get(line, (now, 0))
        self._waiting[line] = since, count + 1

    def known(self, line: bytes) -> None:
        """A role of this run is on this line."""
        self._waiting.pop(line, None)

    def gone(self, line: bytes) -> None:
        """A role of this run was on this line."""
        self._gone[line] = None
        if len(self._gone) > MOST_LINES:
            del self._gone[next(iter(self._gone))]

    def overdue(self, now: float) -> Iterator[int]:
        """How many messages each line has sent that nobody will own up to."""
        for line, (since, count) in list(self._waiting.items()):
            if now - since < self.patience_s and len(self._waiting) <= MOST_LINES:
                return
            del self._waiting[line]
            yield count
