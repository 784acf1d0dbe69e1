"""``autoassist export``: every batch, every decided window, and every instance's loss history, out of the run store.

All of one export is of one moment, also where the run goes on meanwhile.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import tyro

from autoassist.report.unfinished import comparison_words
from autoassist.roles import Flat, LogSettings
from broker.rows import EpochRow, StepRow
from broker.store import RunStore
from protocol.errors import UserError
from protocol.messages import Batch, Segment

log = logging.getLogger("autoassist.export")

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write what a run offered and trained, to standard output or a file."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of the run; it may still be running, or be a copy that cannot be written."""
    what: Literal["batches", "losses", "windows"] = "batches"
    """batches: one record per step and rank. losses: one per reported loss, in the order of the loss log. windows: one
    per window, with all IDs offered and how many were kept when it was decided."""
    format: Literal["jsonl", "csv"] = "jsonl"
    """JSON lines, or CSV with lists as JSON."""
    output: Path | None = None
    """File to write; standard output if not given."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Write; returns the exit code."""
        if words := comparison_words(self.run_dir):
            raise UserError(f"{self.run_dir}: {words}")
        store = RunStore(self.run_dir, writable=False)
        try:
            records = RECORDS[self.what](store)
            if self.output is None:
                write(records, self.format, sys.stdout)
            else:
                _write_file(records, self.format, self.output)
        finally:
            store.close()
        return 0


def _write_file(records: Iterator[Record], form: str, path: Path) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            write(records, form, file)
    except OSError as error:
        error.filename = error.filename or str(path)  # a disk that fills up does not name it
        raise


def write(records: Iterator[Record], form: str, file: TextIO) -> None:
    """Write records in the given form; not-a-number losses become null."""
    writer = csv.writer(file)
    for number, record in enumerate(records):
        if form == "jsonl":
            file.write(json.dumps(record, allow_nan=False) + "\n")
            continue
        if number == 0:
            writer.writerow(record)
        writer.writerow([json.dumps(v) if isinstance(v, list) else v for v in record.values()])


def batch_records(store: RunStore) -> Iterator[Record]:
    """Finished batches, then those that are cut and not reported yet; one record per step and rank."""
    for batch in store.finished_batches():
        yield from _by_rank(batch)
    pending = [row.batch for _, row in store.rows() if isinstance(row, StepRow)]
    for batch in sorted(pending, key=lambda b: b.step):
        yield from _by_rank(batch)


def _by_rank(batch: Batch) -> Iterator[Record]:
    start = 0
    for rank, count in enumerate(batch.rank_counts):
        segments = segments_between(batch.segments, start, start + count)
        stale = [batch.step - s.learned_through for s in segments if s.learned_through is not None]
        yield {
            "epoch": batch.epoch,
            "step": batch.step,
            "rank": rank,
            "ids": batch.ids[start : start + count].tolist(),
            "keep_probabilities": [float(p) for p in batch.keep_probabilities[start : start + count]],
            "segments": [_segment(s) for s in segments],
            "staleness": max(stale, default=None),
            "kind": batch.kind,
            "padding": min(count, max(0, start + count - (len(batch.ids) - batch.padding))),
        }
        start += count


def segments_between(segments: list[Segment], start: int, stop: int) -> list[Segment]:
    """The segments of positions ``start … stop-1`` of a batch, the outer ones shortened."""
    found, position = [], 0
    for segment in segments:
        first, last = max(start, position), min(stop, position + segment.count)
        if last > first:
            found.append(
                Segment(
                    count=last - first,
                    epoch=segment.epoch,
                    window=segment.window,
                    assistant=segment.assistant,
                    version=segment.version,
                    learned_through=segment.learned_through,
                )
            )
        position += segment.count
    return found


def _segment(segment: Segment) -> Record:
    return {
        "count": segment.count,
        "epoch": segment.epoch,
        "window": segment.window,
        "assistant": segment.assistant or "unfiltered",
        "version": segment.version,
        "learned_through": segment.learned_through,
    }


def loss_records(store: RunStore) -> Iterator[Record]:
    """Every reported loss, in log order. ``epoch`` is the step's: of one in which two epochs meet, the later one; the
    segments in ``batches`` tell them apart."""
    for record in store.loss_records():
        for id_, loss, keep in zip(record.ids, record.losses, record.keep_probabilities, strict=True):
            yield {
                "id": int(id_),
                "epoch": record.epoch,
                "step": record.step,
                "loss": float(loss) if math.isfinite(loss) else None,
                "keep_probability": float(keep),
            }


def window_records(store: RunStore) -> Iterator[Record]:
    """Every decided window, in the order of the decisions; together they offer each ID once an epoch.

    A record is as of the decision, and ``kept`` with it: a window that is reopened later, because its selection has
    become too stale in stock, passes all its untrained IDs after all. What was trained of it is in the batches.
    """
    for window in store.decided_windows():
        yield {
            "window": window.window,
            "epoch": window.epoch,
            "assistant": window.assistant or "unfiltered",
            "version": window.version,
            "learned_through": window.learned_through,
            "reason": window.reason or None,
            "kept": window.kept,
            "ids": window.ids.tolist(),
        }
    decided = sum(row.closed_windows for _, row in store.rows() if isinstance(row, EpochRow))
    if decided > store.windows.records:
        log.warning(
            "%d of %d windows were decided by an earlier version, which kept no log of them: they are missing here",
            decided - store.windows.records,
            decided,
        )


RECORDS: dict[str, Callable[[RunStore], Iterator[Record]]] = {
    "batches": batch_records,
    "losses": loss_records,
    "windows": window_records,
}
