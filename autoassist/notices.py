"""Warnings of all roles: said when they arise, and once more after the summary, where nobody misses them."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Literal

from protocol.logs import ErrorStream, JsonFormatter, LineFormatter, complaint_in

LogLevel = Literal["debug", "info", "warning", "error"]


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
        complaint = complaint_in(line)
        if complaint is None or complaint.ends:
            return False
        before = len(self._by_text)
        self._by_text.setdefault(complaint.text, f"[{name}] ")
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


def formatter(*, as_json: bool) -> logging.Formatter:
    """Of the lines of this process."""
    return JsonFormatter() if as_json else LineFormatter()


def set_up_logging(*, debug: bool = False, as_json: bool = False, level: LogLevel = "info") -> None:
    """Our own words from ``level`` on (DEBUG with ``debug``), those of other libraries from WARNING on."""
    handler = logging.StreamHandler(ErrorStream())
    handler.setFormatter(formatter(as_json=as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    wanted = logging.DEBUG if debug else logging.getLevelNamesMapping()[level.upper()]
    is_one_of_several = os.environ.get("RANK", "0") != "0"  # rank 0 says what all of them would
    if is_one_of_several and wanted == logging.INFO:
        wanted = logging.WARNING
    logging.getLogger("autoassist").setLevel(wanted)
