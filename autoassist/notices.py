"""Warnings of all roles: said when they arise, and once more after the summary, where nobody misses them."""

from __future__ import annotations

import logging
import os
import re
import sys
from types import TracebackType

LABELLED = re.compile(r"^[\d:]{8} autoassist[\w.]*: (WARNING|ERROR|CRITICAL): (.*)")
LAST_WORDS = "error: "
"""How the command line begins what ends a process."""


class LineFormatter(logging.Formatter):
    """``12:00:00 autoassist.boss: epoch 0: …``, and the level's name before what is WARNING or worse."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line; ``Notices`` finds the level in it again."""
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname}: {record.message}"
        return super().formatMessage(record)


def complaint_in(line: str) -> tuple[str, str] | None:
    """(level, text) of a line of a role's log that warns, or that tells the error which ended it; None for others."""
    if line.startswith(LAST_WORDS):
        return "ERROR", line.removeprefix(LAST_WORDS)
    found = LABELLED.match(line)
    return (found[1], found[2]) if found is not None else None


class ErrorStream:
    """Standard error as it is at the moment: while a live view is drawn, what is written appears above it."""

    def write(self, text: str) -> int:
        """Write to it."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


class Notices(logging.Handler):
    """Collects warnings, each text once: this process's while it is entered, and those of lines that it ``hears``."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._by_text: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of this process."""
        self._by_text.setdefault(record.getMessage(), "")

    def hears(self, name: str, line: str) -> bool:
        """Whether the line of a role is a warning that nobody has said before; it is kept then."""
        found = LABELLED.match(line)
        if found is None:
            return False
        before = len(self._by_text)
        self._by_text.setdefault(found[2], f"[{name}] ")
        return len(self._by_text) > before

    @property
    def lines(self) -> list[str]:
        """All of them, in order, each with the role that said it first."""
        return [name + text for text, name in list(self._by_text.items())]

    def __enter__(self) -> Notices:
        logging.getLogger("autoassist").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("autoassist").removeHandler(self)


def set_up_logging(*, debug: bool) -> None:
    """Our own words from INFO on (DEBUG with ``debug``), those of other libraries from WARNING on."""
    handler = logging.StreamHandler(ErrorStream())
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    is_one_of_several = os.environ.get("RANK", "0") != "0"  # rank 0 says what all of them would
    usual = logging.WARNING if is_one_of_several else logging.INFO
    logging.getLogger("autoassist").setLevel(logging.DEBUG if debug else usual)
