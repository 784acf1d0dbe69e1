"""The port of a Boss or an Assistant: its own figures, looked at when somebody asks; its loop knows nothing of it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from protocol.exporter import Exporter, ExporterSettings
from protocol.metrics import Metric, exposition

log = logging.getLogger("autoassist")

LOOK_EVERY_S = 0.5
"""Figures are no younger than asked for, and looked at no more often than this, however many ask."""

T = TypeVar("T")


class Glance(Generic[T]):
    """Looks at a role from another thread, now and then; what it saw last where the role is just changing it."""

    def __init__(self, look: Callable[[], T | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._seen: T | None = None
        self._next = 0.0

    def __call__(self) -> T | None:
        """The figures; None while there are none."""
        now = self._clock()
        if now >= self._next or self._seen is None:
            try:
                self._seen = self._look() or self._seen
            except RuntimeError:  # a container changed while it was read
                return self._seen
            self._next = now + LOOK_EVERY_S
        return self._seen


@contextmanager
def exporting(
    settings: ExporterSettings,
    who: str,
    metrics: Sequence[Metric],
    look: Callable[[], T | None],
    turned_at: Callable[[], float],
) -> Iterator[str]:
    """Serves a role's figures meanwhile; gives the address, "" where nobody wants them."""
    if settings.http_port is None:
        yield ""
        return
    glance = Glance(look)

    def source() -> tuple[T, float] | None:
        figures = glance()
        return None if figures is None else (figures, turned_at())

    exporter = Exporter(settings, who, source, lambda figures: exposition(metrics, figures, of_process=True))
    log.info("metrics on %s/metrics", exporter.address)
    try:
        yield exporter.address
    finally:
        exporter.close()


def of_rank(settings: ExporterSettings, rank: int) -> ExporterSettings:
    """Ranks of one host have a port each, counted on from the first."""
    if not settings.http_port:
        return settings
    return dataclasses.replace(settings, http_port=settings.http_port + rank)
