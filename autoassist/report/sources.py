"""What is left of a run in its directory: each part is read by itself, and what cannot be read is said in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from autoassist.remembered import COMMAND_FILE
from autoassist.report.curves import RunCurves, read_curves
from autoassist.report.unfinished import comparison_words
from broker.core import BrokerCore
from broker.hub import Hub
from broker.report import build_report
from broker.rows import EpochRow, PeerRow, Row, RunRow, decode_row
from broker.segments import SegmentLog, batch_log, loss_log, window_log
from broker.store import BATCH_LOG, DATABASE, LOGS, LOSS_LOG, WINDOW_LOG, RunStore, reading
from protocol.errors import AutoAssistError, DataError, StoreError
from protocol.logs import complaint_in
from protocol.messages import EpochResult
from protocol.report import REPORT_FILE, Report, read_report

MOST_LINES = 200_000
"""Of a role's log that are looked through for warnings."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """A warning or an error that a role has logged, once for all times that it did."""

    role: str
    level: str
    text: str
    times: int


@dataclass(kw_only=True)
class Sources:
    """All that could be read of a run."""

    run_dir: Path
    problems: list[str] = field(default_factory=list)
    """What could not be, one sentence each."""
    report: Report | None = None
    epochs: list[EpochResult] = field(default_factory=list)
    peers: list[PeerRow] = field(default_factory=list)
    run: RunRow | None = None
    curves: RunCurves = field(default_factory=RunCurves)
    command: dict[str, Any] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)

    @property
    def set_aside(self) -> list[int]:
        """IDs that the Assistants' noise guards have set aside, each once."""
        if self.report is None:
            return []
        return list(dict.fromkeys(i for assistant in self.report.assistants for i in assistant.set_aside))


def read_sources(run_dir: Path) -> Sources:
    """Raises DataError where the directory holds nothing of a run."""
    names = (REPORT_FILE, DATABASE, COMMAND_FILE, *LOGS)
    if not any((run_dir / name).exists() for name in names):
        if words := comparison_words(run_dir):
            raise DataError(f"{run_dir}: {words}")
        raise DataError(f"{run_dir}: holds no run; give the directory of a run, as autoassist run names it at its end")
    found = Sources(run_dir=run_dir)
    found.command = _command(found)
    found.complaints = read_complaints(run_dir / "logs")
    written = _written_report(found)
    with ExitStack() as opened:
        rows, logs = _stored(found, opened)
        found.run = next((row for row in rows if isinstance(row, RunRow)), None)
        found.peers = [row for row in rows if isinstance(row, PeerRow)]
        results = (row.result for row in rows if isinstance(row, EpochRow))
        found.epochs = sorted((r for r in results if r is not None), key=lambda r: r.epoch)
        found.report = _newest_report(found, written, rows)
        found.curves = read_curves(*logs, found.set_aside, found.problems)
    return found


def _command(found: Sources) -> dict[str, Any]:
    """What the launcher was told; a run of roles of their own has none, which is no problem."""
    path = found.run_dir / COMMAND_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.exists() else {}
    except (OSError, msgspec.MsgspecError) as error:
        found.problems.append(f"The command that began the run cannot be read ({path.name}: {error}).")
        return {}


def _written_report(found: Sources) -> Report | None:
    path = found.run_dir / REPORT_FILE
    if not path.exists():
        return None
    try:
        return read_report(found.run_dir)
    except DataError as error:
        found.problems.append(f"{REPORT_FILE} cannot be read, the figures are the run store's instead ({error}).")
        return None


def _newest_report(found: Sources, written: Report | None, rows: Sequence[Row]) -> Report | None:
    """The one that was written, where the run was over then; else as the rows stand now."""
    if written is not None and written.status != "running":
        return written
    if found.run is None:
        if written is None:
            found.problems.append("No figures are there: no Boss has come to this run, or the run store is damaged.")
        return written
    try:
        made = build_report(BrokerCore.from_rows("", [(type(row).__name__, row) for row in rows]), Hub())
    except (AutoAssistError, LookupError, ValueError, AssertionError) as error:
        found.problems.append(f"The run store's rows do not fit together ({type(error).__name__}: {error}).")
        return written
    if written is not None:
        made = msgspec.structs.replace(
            made,
            refused_input=written.refused_input,
            refused_input_from=written.refused_input_from,
            versions=written.versions,
        )
    return made


Logs = tuple[SegmentLog[Any] | None, SegmentLog[Any] | None, SegmentLog[Any] | None]
"""Of losses, batches and windows."""


def _stored(found: Sources, opened: ExitStack) -> tuple[list[Row], Logs]:
    """The rows and the logs, as far as they can be read."""
    if not (found.run_dir / DATABASE).exists():
        found.problems.append(f"The run store ({DATABASE}) is missing: curves by step cannot be drawn.")
        return [], (None, None, None)
    try:
        store = opened.enter_context(closing(RunStore(found.run_dir, writable=False)))
        return [row for _, row in store.rows()], (store.losses, store.batches, store.windows)
    except StoreError as error:
        found.problems.append(f"The run store cannot be read whole; what can be is shown ({error}).")
    return _what_is_whole(found, opened)


def _what_is_whole(found: Sources, opened: ExitStack) -> tuple[list[Row], Logs]:
    """Each row and each log by itself."""
    rows, lengths = _rows_alone(found)

    def log_of(make: Callable[..., SegmentLog[T]], name: str) -> SegmentLog[T] | None:
        try:
            log = make(found.run_dir / name, lengths.get(name, 0), writable=False)
        except (StoreError, OSError):
            return None
        return opened.enter_context(closing(log))

    return rows, (log_of(loss_log, LOSS_LOG), log_of(batch_log, BATCH_LOG), log_of(window_log, WINDOW_LOG))


def _rows_alone(found: Sources) -> tuple[list[Row], dict[str, int]]:
    rows: list[Row] = []
    lengths: dict[str, int] = {}
    damaged = 0
    try:
        with reading(found.run_dir) as db:
            lengths.update(db.execute("SELECT name, length FROM logs"))
            for kind, raw in db.execute("SELECT kind, value FROM rows"):
                try:
                    rows.append(decode_row(kind, raw))
                except (msgspec.MsgspecError, AutoAssistError, KeyError):
                    damaged += 1
    except (OSError, sqlite3.Error) as error:
        found.problems.append(f"{DATABASE} cannot be read to its end ({error}).")
    if damaged:
        found.problems.append(f"{damaged} rows of {DATABASE} cannot be read and are left out.")
    return rows, lengths


def read_complaints(folder: Path) -> list[Complaint]:
    """Warnings and errors in the roles' logs, in the order in which each was first said."""
    counts: dict[tuple[str, str, str], int] = {}
    for path in sorted(folder.glob("*.log")):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                for line, _ in zip(file, range(MOST_LINES), strict=False):
                    if (said := complaint_in(line.rstrip("\n"))) is not None:
                        key = (path.stem, said.level, said.text)
                        counts[key] = counts.get(key, 0) + 1
        except OSError as error:
            counts[path.stem, "WARNING", f"its log cannot be read: {error.strerror}"] = 1
    return [Complaint(role=role, level=level, text=text, times=n) for (role, level, text), n in counts.items()]
