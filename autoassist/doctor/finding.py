"""What the doctor says of one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from protocol.errors import AutoAssistError

Level = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    check: str  # a short word; the same for all findings of one check
    level: Level  # note: worth knowing; warning: works, but not well, or not for long; error: something will not work
    found: str
    remedy: str = ""  # what to do; there is one for each warning and error


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, level="ok", found=found)


def note(check: str, found: str, remedy: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check=check, level="note", found=found, remedy=remedy)


def warning(check: str, found: str, remedy: str) -> Finding:
    """It works, but not well, or not for long."""
    return Finding(check=check, level="warning", found=found, remedy=remedy)


def error(check: str, found: str, remedy: str) -> Finding:
    """Something will not work."""
    return Finding(check=check, level="error", found=found, remedy=remedy)


def looked_at(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; one that fails itself is a warning, and the others go on."""
    try:
        yield from look()
    except AutoAssistError as failure:
        told, _, remedy = str(failure).partition("; ")
        yield error(check, told, remedy)
    except Exception as failure:
        told = f"{type(failure).__name__}: {failure}"
        yield warning(check, f"cannot be looked at: {told}", "look at it by hand; please report this, with this line")
