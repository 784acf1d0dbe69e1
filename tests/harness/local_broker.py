"""A real broker on a free port in a thread of the test, for tests of the roles' public surface."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.loop import Broker, BrokerSettings
from protocol.signals import StopSignal

DEADLINE_S = 60.0


@contextmanager
def local_broker(run_dir: Path) -> Iterator[str]:
    """Gives the broker's address; ends it afterwards, and fails if it ended with an error."""
    stop = StopSignal()
    addresses: queue.SimpleQueue[str] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            broker = Broker(BrokerSettings(run_dir=run_dir, port=0, drain_s=2.0))
            addresses.put(broker.address)
            broker.run(stop)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=serve, name="local-broker")
    thread.start()
    try:
        yield addresses.get(timeout=DEADLINE_S)
    finally:
        stop.request()
        thread.join(DEADLINE_S)
        stop.close()
    assert not thread.is_alive() and not failures
