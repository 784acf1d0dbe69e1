"""How a mistake in a workload is told: its class and method, what happened, where, and the remedy, on one line."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.errors import AutoAssistError, WorkloadError
from workloads.base import Workload

REMEDY = "mend it there; --debug shows the whole traceback"


def method_of(workload: Workload, call: str) -> str:
    """``Class.method(…)`` as messages name it."""
    return f"{type(workload).__qualname__}.{call}"


@contextmanager
def blaming(workload: Workload, what: str) -> Iterator[None]:
    """Whatever is raised within, ``sys.exit()`` too, is a WorkloadError that names ``what``; errors of our own pass."""
    try:
        yield
    except (AutoAssistError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raised = f"raised {described(error)} at {place_of(error, _file_of(workload))}"
        raise WorkloadError(f"workload {workload.name}: {what} {raised}; {REMEDY}") from error


def wrong(workload: Workload, what: str, found: str, expected: str) -> WorkloadError:
    """The error of a method that returned something else than it promises."""
    return WorkloadError(f"workload {workload.name}: {what} returned {found}; expected {expected}")


def described(error: BaseException) -> str:
    """Type and text of an exception, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: BaseException, file: str | None) -> str:
    """Where an exception arose: the deepest line of ``file``, else the deepest line of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    deepest = (own or frames)[-1]
    return f"{deepest.filename}:{deepest.lineno}"


def _file_of(workload: Workload) -> str | None:
    try:
        return inspect.getsourcefile(type(workload))
    except TypeError:
        return None
