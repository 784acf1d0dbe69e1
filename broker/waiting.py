"""When the poll loop's next iteration begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import zmq

GATHER_S = 0.0001
"""Time for what belongs together to arrive, a report and the credit behind it: an iteration for each costs more than
both. A Boss with a batch in hand does not notice."""


class Alarm:
    """Wakes the loop by what can be read, or at its next deadline."""

    def __init__(self, sources: Iterable[zmq.Socket[bytes] | int]) -> None:
        self._poller = zmq.Poller()
        for source in sources:
            self._poller.register(source, zmq.POLLIN)

    def wait(self, timeout_ms: Callable[[], int], *, may_gather: bool) -> None:
        """Return at once where something has come during the last iteration: it has had its time to gather.

        Else what comes is given a moment more, which ``may_gather`` allows: it is not for a Boss that lacks a batch.
        """
        if not self._poller.poll(0) and self._poller.poll(timeout_ms()) and may_gather:
            time.sleep(GATHER_S)
