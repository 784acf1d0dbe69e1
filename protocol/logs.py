"""How roles speak: one line per event that matters, none per step; for people, or as JSON for machines.

    12:00:00 autoassist.boss [boss-0 1f2e3d4c @120]: WARNING: …
    {"time": …, "level": "warning", "logger": "autoassist.boss", "run": …, "role": "boss", "peer": …, "step": 120, …}

Who speaks, of which run and at which step, is asked for when a line is written: a step costs nothing.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

LAST_WORDS = "error: "
"""How the command line begins what ends a process, for people."""
LABELLED = re.compile(r"^[\d:]{8} autoassist[\w.]*(?: \[[^\]]*\])?: (WARNING|ERROR|CRITICAL): (.*)")
OURS = re.compile(r"[\d:]{8} autoassist[\w.]* \[[^\]]+\]: ")
"""A line for people that says who speaks."""
RUN_LETTERS = 8
"""Of a run's identity, as people read it; JSON has all."""


@dataclass(slots=True)
class _Speaker:
    """Who writes lines in this process."""

    role: str = ""
    peer: str = ""
    run: str = ""
    """Identity of the run, "" before it is known."""
    step: Callable[[], int | None] = lambda: None
    """The latest step that it knows of."""


_speaker = _Speaker()


def speak_as(role: str, peer: str, step: Callable[[], int | None] = lambda: None) -> None:
    """From now on every line of this process is this role's."""
    _speaker.role, _speaker.peer, _speaker.step = role, peer, step


def joined(run_id: str) -> None:
    """From now on every line of this process is of this run."""
    _speaker.run = run_id


def facts() -> dict[str, Any]:
    """What is known of who speaks, in the order of the lines; nothing is left out."""
    found = {"run": _speaker.run, "role": _speaker.role, "peer": _speaker.peer, "step": _speaker.step()}
    return {name: value or None if name != "step" else value for name, value in found.items()}


class LineFormatter(logging.Formatter):
    """For people; the level's name stands before what is WARNING or worse, where ``complaint_in`` finds it again.

    What another role has said, and this one passes on (``echo``), stays as it is where it says who speaks.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s%(place)s: %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, but for a traceback."""
        echoed = getattr(record, "echo", "")
        return str(echoed) if OURS.match(echoed) else super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line."""
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname}: {record.message}"
        record.place = _place() if record.name.startswith("autoassist") else ""
        return super().formatMessage(record)


def _place() -> str:
    found = facts()
    step = f"@{found['step']}" if found["step"] is not None and found["step"] >= 0 else ""
    words = [found["peer"] or "", (found["run"] or "")[:RUN_LETTERS], step]
    text = " ".join(filter(None, words)).replace("]", ")")
    return f" [{text}]" if text else ""


class JsonFormatter(logging.Formatter):
    """For machines: one object a line, with the same members in all of them, null where nothing is known."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback stands in it, with its line ends written out. What another role has said as JSON, and
        this one passes on, stays as it is."""
        echoed = getattr(record, "echo", None)
        if echoed is not None and json_in(echoed) is not None:
            return str(echoed)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **facts(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if getattr(record, "ends", False):
            line["ends"] = True
        return json.dumps(line, ensure_ascii=False, default=str)


class Complaint(NamedTuple):
    """A warning, or worse, that a role has said."""

    level: str
    text: str
    ends: bool = False
    """Whether it is what ended the process."""


def complaint_in(line: str) -> Complaint | None:
    """What a line of a role complains of, in either form; None for a line that does not."""
    if line.startswith(LAST_WORDS):
        return Complaint("ERROR", line.removeprefix(LAST_WORDS), True)
    if (found := LABELLED.match(line)) is not None:
        return Complaint(found[1], found[2])
    said = json_in(line)
    if said is None or said["level"] not in ("warning", "error", "critical"):
        return None
    return Complaint(str(said["level"]).upper(), str(said["message"]), said.get("ends") is True)


def json_in(line: str) -> dict[str, Any] | None:
    """A line that is ours and JSON; None for any other."""
    if not line.startswith('{"time": '):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and {"level", "message", "logger"} <= said.keys() else None


class ErrorStream:
    """Standard error as it is at the moment: while a live view is drawn, what is written appears above it."""

    def write(self, text: str) -> int:
        """Write to it."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


class LogFile(logging.Handler):
    """Appends to a file what this process itself says. Where that fails (a full disk), the rest goes on."""

    def __init__(self, path: Path, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._path = path
        self._file: TextIO | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, unless it only passes on what another role has said (``echo``)."""
        if hasattr(record, "echo"):
            return
        try:
            if self._file is None:
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(self.format(record) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            return

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk does not take is lost
                self._file.close()
        super().close()
