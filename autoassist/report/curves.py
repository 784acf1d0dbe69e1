"""What a run's logs say step by step, gathered into as many points as a chart has room for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from broker.rows import WindowRecord
from broker.segments import SegmentLog
from protocol.errors import StoreError
from protocol.messages import Batch, LossRecord

POINTS = 240
MOST_RECORDS = 200_000
"""Of a log that are read, evenly spread; ten seconds or so. A longer log is sampled."""
PI_BINS = 20
LOSS_BINS = 40
LOSS_DECADES = (-4.0, 2.0)
MOST_HISTORY = 12
"""Losses that are kept of each instance that was set aside, the latest."""

T = TypeVar("T")


@dataclass(slots=True)
class History:
    """What an instance has lost."""

    reports: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss), the latest."""


@dataclass(kw_only=True)
class RunCurves:
    """Points (x, y); empty where the log was not there."""

    loss: list[tuple[float, float]] = field(default_factory=list)
    """By step: the mean of what was offered, each weighted by 1/π."""
    trained_loss: list[tuple[float, float]] = field(default_factory=list)
    """By step: the mean of what was trained."""
    kept: list[tuple[float, float]] = field(default_factory=list)
    """By epoch, a fraction within it: share of the offered that was kept when it was decided."""
    unfiltered: list[tuple[float, float]] = field(default_factory=list)
    """By epoch: share of the offered that no Assistant judged."""
    staleness: list[tuple[float, float]] = field(default_factory=list)
    """By step: the stalest batch."""
    keep_probabilities: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PI_BINS, dtype=np.int64))
    """Instances trained by π, in equal bins of 0 … 1."""
    last_losses: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LOSS_BINS, dtype=np.int64))
    """Losses of the last tenth of the run, in equal bins of their decimal logarithm."""
    histories: dict[int, History] = field(default_factory=dict)
    """By ID, of what was set aside."""
    every: int = 1
    """Each so many-th record was read."""


def read_curves(
    losses: SegmentLog[LossRecord] | None,
    batches: SegmentLog[Batch] | None,
    windows: SegmentLog[WindowRecord] | None,
    followed: Sequence[int],
    problems: list[str],
) -> RunCurves:
    """From logs that are open; a damaged record ends its curve, and a sentence in ``problems`` says so."""
    curves = RunCurves(histories={id_: History() for id_ in followed})
    if losses is not None:
        _read_losses(curves, losses, problems)
    if batches is not None:
        _read_batches(curves, batches, problems)
    if windows is not None:
        _read_windows(curves, windows, problems)
    return curves


def _whole(log: SegmentLog[T], every: int, problems: list[str]) -> Iterator[tuple[int, T]]:
    """(number, record) up to the first that is damaged."""
    try:
        if every == 1:
            yield from enumerate(log.read())
        else:
            for number in range(0, log.records, every):
                yield number, next(log.read(number, number + 1))
    except (StoreError, OSError, ValueError) as error:
        problems.append(f"The curves end where {log.path.name} is damaged ({error}).")


def _every(log: SegmentLog[T]) -> int:
    return max(1, math.ceil(log.records / MOST_RECORDS))


class _Bins:
    """Sums in equal pieces of a log."""

    def __init__(self, records: int) -> None:
        self._per_bin = max(1.0, records / POINTS)
        self._found: dict[int, list[float]] = {}

    def add(self, number: int, *amounts: float) -> None:
        sums = self._found.setdefault(int(number / self._per_bin), [0.0] * len(amounts))
        for place, amount in enumerate(amounts):
            sums[place] += amount

    def sums(self) -> Iterator[list[float]]:
        return iter(self._found.values())


def _read_losses(curves: RunCurves, log: SegmentLog[LossRecord], problems: list[str]) -> None:
    curves.every = _every(log)
    bins, last_tenth = _Bins(log.records), 0.9 * log.records
    followed = np.array(sorted(curves.histories), dtype=np.int64)
    for number, record in _whole(log, curves.every, problems):
        finite = np.isfinite(record.losses) & (record.keep_probabilities > 0)
        values = record.losses[finite].astype(np.float64)
        weights = 1.0 / record.keep_probabilities[finite].astype(np.float64)
        if len(values):
            bins.add(
                number,
                1.0,
                record.step,
                float(weights @ values),
                float(weights.sum()),
                float(values.sum()),
                len(values),
            )
        if number >= last_tenth:
            curves.last_losses += _by_decade(values)
        if len(followed):
            _follow(curves, record, followed)
    for records, steps, weighted, weight, total, count in bins.sums():
        curves.loss.append((steps / records, weighted / weight))
        curves.trained_loss.append((steps / records, total / count))


def _by_decade(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """What lies beyond the outer decades is counted in the outer bins."""
    low, high = LOSS_DECADES
    powers = np.clip(np.log10(np.maximum(values, 1e-30)), low, high)
    return np.histogram(powers, bins=LOSS_BINS, range=(low, high))[0].astype(np.int64)


def _follow(curves: RunCurves, record: LossRecord, followed: NDArray[np.int64]) -> None:
    for place in np.nonzero(np.isin(record.ids, followed))[0]:
        history = curves.histories[int(record.ids[place])]
        history.reports += 1
        history.losses = [*history.losses[1 - MOST_HISTORY :], (record.step, float(record.losses[place]))]


def _read_batches(curves: RunCurves, log: SegmentLog[Batch], problems: list[str]) -> None:
    per_bin = max(1.0, log.records / POINTS)
    stalest: dict[int, tuple[float, float]] = {}
    for number, batch in _whole(log, _every(log), problems):
        pi = batch.keep_probabilities[: len(batch.ids) - batch.padding]
        curves.keep_probabilities += np.histogram(pi, bins=PI_BINS, range=(0.0, 1.0))[0].astype(np.int64)
        ages = [batch.step - s.learned_through for s in batch.segments if s.learned_through is not None]
        before = stalest.get(int(number / per_bin), (float(batch.step), math.nan))
        if ages and not before[1] >= max(ages):
            before = (float(batch.step), float(max(ages)))
        stalest[int(number / per_bin)] = before
    curves.staleness = list(stalest.values())


def _read_windows(curves: RunCurves, log: SegmentLog[WindowRecord], problems: list[str]) -> None:
    """Along the x axis windows lie in their order; an epoch's are told by how many there are of it."""
    bins = _Bins(log.records)
    in_epoch: dict[int, int] = {}
    for number, window in _whole(log, _every(log), problems):
        offered = float(len(window.ids))
        in_epoch[window.epoch] = in_epoch.get(window.epoch, 0) + 1
        bins.add(number, 1.0, number, offered, window.kept, 0.0 if window.assistant else offered)
    per_epoch = max(1, max(in_epoch.values(), default=1)) * _every(log)
    for records, numbers, offered, kept, unfiltered in bins.sums():
        if offered:
            place = numbers / records / per_epoch
            curves.kept.append((place, kept / offered))
            curves.unfiltered.append((place, unfiltered / offered))
