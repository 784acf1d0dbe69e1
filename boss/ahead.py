"""How far the training thread may run ahead of its device, and the wait for what it has launched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from boss.reporter import RING_SLOTS, Reporter

LEAST_AHEAD_STEPS = 4
ALIVE_S = 1.0
"""How often who waits for the I/O thread looks whether there still is one."""
STALL_S = 60.0
"""A device that does no step for so long may stand still for good, and is no longer waited for."""


class Ahead:
    """``until_done`` for the training thread, ``came`` for the I/O thread, under the lock of both."""

    def __init__(self, reporter: Reporter, changed: threading.Condition, prefetch_batches: int) -> None:
        self.most_steps = min(max(prefetch_batches, LEAST_AHEAD_STEPS), RING_SLOTS - 1)
        """That may be launched before the device has done them: with more the training thread would be no faster, its
        losses would be older, and once it has waited for the device it would run the feed dry."""
        self.is_awaited = False
        """Whether the training thread waits for the next losses to come."""
        self._reporter = reporter
        self._changed = changed

    def until_done(self, lag_steps: int, wake: Callable[[], None], may_come: Callable[[], bool]) -> bool:
        """Wait until the device is at most so many reports behind; whether it was further. In vain where nothing
        ``may_come`` any more, or the device gets on with nothing for ``STALL_S``."""
        left = self._reporter.lag_steps
        if left <= lag_steps or not may_come():
            return False
        with self._changed:
            self.is_awaited = True
            left = self._reporter.lag_steps  # what came before that was told to nobody
            wake()
            stalled_at = time.monotonic() + STALL_S
            while left > lag_steps and may_come() and time.monotonic() < stalled_at:
                self._changed.wait(ALIVE_S)
                if self._reporter.lag_steps < left:
                    stalled_at = time.monotonic() + STALL_S
                left = self._reporter.lag_steps
            self.is_awaited = False
        return True

    def came(self) -> None:
        """Losses have."""
        if self.is_awaited:
            with self._changed:
                self._changed.notify_all()
