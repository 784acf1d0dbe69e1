"""The run's metrics and health over HTTP, from the latest statistics that the poll loop has shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from protocol.exporter import Exporter, ExporterSettings
from protocol.metrics import METRICS, exposition
from protocol.statistics import RunStatistics


class Watcher(Protocol):
    """Whom a broker shows its statistics, twice a second."""

    def show(self, statistics: RunStatistics) -> None:
        """Nobody changes ``statistics`` afterwards."""


def render(statistics: RunStatistics) -> bytes:
    """All metrics of a run in Prometheus's text format."""
    return exposition(METRICS, statistics)


class Monitor(Exporter[RunStatistics]):
    """Serves what it was shown last; the poll loop only ever puts a reference down."""

    def __init__(self, settings: ExporterSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises PortInUse or SettingError where the address cannot be had."""
        self._shown: tuple[RunStatistics, float] | None = None
        super().__init__(settings, "broker", lambda: self._shown, self._page, clock)

    @staticmethod
    def _page(statistics: RunStatistics) -> bytes:
        return render(statistics)

    def show(self, statistics: RunStatistics) -> None:
        """See Watcher."""
        self._shown = statistics, self._clock()


@contextmanager
def monitoring(settings: ExporterSettings) -> Iterator[Monitor | None]:
    """A monitor that serves meanwhile; None where none is wanted."""
    monitor = Monitor(settings) if settings.http_port is not None else None
    try:
        yield monitor
    finally:
        if monitor is not None:
            monitor.close()
