"""Curves for TensorBoard: a thread looks at a role now and then, and writes what it sees, off its loop."""

from __future__ import annotations

import importlib.util
import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autoassist.exporting import Glance
from protocol.errors import SettingError
from protocol.role_statistics import AssistantStatistics, BossStatistics

log = logging.getLogger("autoassist")

LOOK_EVERY_S = 1.0
"""Time between two points of a curve: a run of days has some hundred thousand, which TensorBoard thins out itself."""

T = TypeVar("T")
Point = tuple[str, float | None, int]
"""Name of the curve, value, and where it lies along the x axis."""


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """Where curves go, if they are wanted."""

    tensorboard: Path | None = None
    """Directory for TensorBoard's curves of this role, in a folder of its name; needs the extra tensorboard."""

    def __post_init__(self) -> None:
        if self.tensorboard is not None and not can_draw():
            remedy = "pip install 'autoassist[tensorboard]', or leave it out"
            raise SettingError(f"tensorboard={self.tensorboard}: TensorBoard is not installed; {remedy}")


def can_draw() -> bool:
    """Whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


def of_boss(now: BossStatistics) -> Iterator[Point]:
    """Each against steps and against passes: a run that leaves out has fewer of the one for the other."""
    shares = {"exposed wait, share": now.exposed_wait_s / now.wall_s if now.wall_s else None}
    found = {"loss": now.loss, "evaluation": now.evaluation, "mean π": now.keep_probability, **shares}
    stale = None if now.staleness_steps is None else float(now.staleness_steps)
    found |= {"staleness, steps": stale, "off plan, steps": float(now.off_plan_steps)}
    for name, value in found.items():
        yield f"by step/{name}", value, now.steps
        yield f"by passes/{name}", value, now.instances


def of_assistant(now: AssistantStatistics) -> Iterator[Point]:
    """Against the step that it has learned through; it knows of no passes."""
    step = max(0, now.learned_through)
    kept = now.instances_kept / now.instances_scored if now.instances_scored else None
    yield "by step/lift", now.lift, step
    yield "by step/lift less three errors", now.lift - 3.0 * now.lift_error, step
    yield "by step/kept, share", kept, step
    yield "by step/waiting loss records", float(now.waiting_records), step


class Curves:
    """Writes points that are new; several processes write into folders of their own."""

    def __init__(self, folder: Path) -> None:
        """Raises SettingError where the folder cannot be written."""
        from tensorboard.summary import Writer

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(str(folder))
        except OSError as error:
            raise SettingError(f"tensorboard={folder}: {error.strerror}; give a folder that can be written") from None
        self._last: dict[str, tuple[float, int]] = {}

    def write(self, points: Iterator[Point]) -> None:
        """What is not known, or stands where it stood, is left out."""
        for name, value, at in points:
            if value is None or not math.isfinite(value) or self._last.get(name, (0.0, -1))[1] >= at:
                continue
            self._last[name] = (value, at)
            self._writer.add_scalar(name, value, at)

    def close(self) -> None:
        """Put what was written on disk."""
        self._writer.flush()
        self._writer.close()


@contextmanager
def drawing(
    settings: CurveSettings, name: str, look: Callable[[], T | None], points: Callable[[T], Iterator[Point]]
) -> Iterator[None]:
    """Draws a role's curves meanwhile; a disk that fails ends the curves, and a line says so, and not the role."""
    if settings.tensorboard is None:
        yield
        return
    curves, glance, done = Curves(settings.tensorboard / name), Glance(look), threading.Event()

    def draw() -> None:
        try:
            while True:
                is_over = done.wait(LOOK_EVERY_S)
                if (now := glance()) is not None:
                    curves.write(points(now))
                if is_over:
                    return
        except OSError as error:
            log.warning("no more curves for TensorBoard in %s: %s", settings.tensorboard, error)
        finally:
            with suppress(OSError):  # what a full disk does not take is lost
                curves.close()

    thread = threading.Thread(target=draw, name="curves", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
