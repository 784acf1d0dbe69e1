"""What the page hears of a run outlasts what stands in its way."""

from __future__ import annotations

import errno
import queue
import time
from typing import Any

import pytest
import zmq

from autoassist.monitor import watch as watching
from autoassist.monitor.watch import Watch
from protocol.handshake import HandshakeWatch
from protocol.messages import PreviewReply
from protocol.statistics import RunStatistics, encode_statistics

DEADLINE_S = 30.0


class Listener:
    """Keeps what it is told, by kind."""

    def __init__(self) -> None:
        self.steps: queue.Queue[int] = queue.Queue()
        self.failures: queue.Queue[str] = queue.Queue()

    def heard(self, statistics: RunStatistics) -> None:
        self.steps.put(statistics.trained_steps)

    def looked(self, reply: PreviewReply | None, trouble: str) -> None:
        """Nobody looks."""

    def failed(self, why: str) -> None:
        self.failures.put(why)

    def is_looking(self) -> bool:
        return False


def test_a_page_that_had_no_descriptors_for_a_moment_hears_the_run_afterwards(
    monkeypatch: pytest.MonkeyPatch, publisher: zmq.Socket[bytes]
) -> None:
    """A crowd of idle clients holds all of them."""
    lacks = [zmq.ZMQError(errno.EMFILE), zmq.ZMQError(errno.ENFILE)]

    def made(*given: Any) -> HandshakeWatch:
        if lacks:
            raise lacks.pop(0)
        return HandshakeWatch(*given)

    monkeypatch.setattr(watching, "HandshakeWatch", made)
    monkeypatch.setattr(watching, "AGAIN_S", 0.5)
    listener = Listener()
    watch = Watch(publisher.getsockopt_string(zmq.LAST_ENDPOINT), None, listener)
    watch.start()
    try:
        for _ in range(2):
            assert "ulimit -n" in listener.failures.get(timeout=DEADLINE_S)
        deadline = time.monotonic() + DEADLINE_S
        while listener.steps.empty() and time.monotonic() < deadline:
            publisher.send(encode_statistics(RunStatistics(policy="uniform", trained_steps=7)))
            time.sleep(0.02)
        assert listener.steps.get_nowait() == 7
    finally:
        watch.close()
