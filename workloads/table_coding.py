"""From columns of text to what a network takes: numbers standardised, categories one-hot, missing values told as such.

What is learned from the data (means, deviations, known categories) is learned from the training rows alone.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError
from workloads.table_files import Columns
from workloads.table_numbers import (
    Floats,
    Mask,
    as_number,
    as_numbers,
    in_row,
    is_missing,
    mark_of_a_code,
    why_no_numbers,
)

log = logging.getLogger("autoassist.workloads")

MAX_CATEGORIES = 50
"""One-hot columns of a category; the rarer ones share one more."""

MAX_CLASSES = 1000
MAX_INTEGER_CLASSES = 20
"""A label of whole numbers with at most so many values is a class, with more a quantity."""

MAX_QUANTITY = 1e100
"""Largest number of a label that is a quantity, so that the squares of errors stay finite."""

_NUMERIC_SHARE = 0.95
"""Where so many labels are numbers, and of many values, the others are slips and no classes."""

MIN_ROWS = 10
SPLIT_SEED = 0
_MAX_DEVIATIONS = 10.0

_ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""A column whose values differ by no more than this share of the largest is a constant, written by sums that round."""


@dataclass(frozen=True)
class Target:
    """What is learned of each instance: a class, or a quantity."""

    values: NDArray[np.int64] | Floats
    """Class indices, or the quantity as it is in the file; shape ``(n,)``."""

    classes: tuple[str, ...] = ()
    """Names of the classes; none for a quantity."""


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of numbers as shares of the largest, whose squares neither overflow nor vanish."""

    largest: float
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, numbers: Floats) -> Scale:
        """Of at least one number; the deviation of a constant is 1, in units of ``largest``."""
        largest = float(np.abs(numbers).max()) or 1.0
        shares = numbers / largest
        return cls(largest, float(np.mean(shares)), float(np.std(shares)) or 1.0)

    def standard(self, numbers: Floats) -> Floats:
        """In deviations from the mean; infinite where a number is that much larger than those of ``of``."""
        with np.errstate(over="ignore"):
            return (numbers / self.largest - self.mean) / self.deviation


def target_of(values: Sequence[str], where: str, rows: Sequence[int] | None = None) -> Target:
    """Decide between classes and a quantity; ``values`` are the label column, without missing ones, of these ``rows``.

    Raises:
        DataError: too few rows, one class only, texts that are nearly all different, or too large a quantity.
    """
    if len(values) < MIN_ROWS:
        raise DataError(f"{where}: {len(values)} rows have a label; at least {MIN_ROWS} are needed")
    rows = range(len(values)) if rows is None else rows
    code = _code_among(values, rows)
    numbers = None if code else as_numbers(values)
    if numbers is not None and not np.isnan(numbers).any() and not _are_classes(numbers):
        largest = float(np.abs(numbers).max())
        if largest > MAX_QUANTITY:
            raise DataError(
                f"{where}: numbers up to {largest:g} are too large to be squared; scale them below {MAX_QUANTITY:g}"
            )
        return Target(numbers)
    named = _spelt_alike(values) if numbers is not None else {value: value for value in values}
    classes = sorted(set(named.values()))
    reason = f"{code}; write numbers without" if code else ""
    if not code and numbers is None:
        reason = why_no_numbers(values, rows, more_than=MAX_INTEGER_CLASSES)
    _require_classes(classes, len(values), where, reason)
    if code and len(classes) > MAX_INTEGER_CLASSES:
        log.warning("%s: %s; so all labels are codes, and %d classes", where, code, len(classes))
    if numbers is not None:
        classes.sort(key=float)
    index = {name: i for i, name in enumerate(classes)}
    return Target(np.array([index[named[value]] for value in values], dtype=np.int64), tuple(classes))


def _code_among(values: Sequence[str], rows: Sequence[int]) -> str:
    """The first label that is a code and no number, in words; empty where there is none, or most are texts anyway."""
    texts = Counter(values)
    if 2 * sum(count for text, count in texts.items() if as_number(text) is not None) <= len(values):
        return ""
    code = next((text for text in texts if mark_of_a_code(text)), None)
    return f"{in_row(code, rows[values.index(code)])} has {mark_of_a_code(code)}, as codes have" if code else ""


def _require_classes(classes: Sequence[str], rows: int, where: str, reason: str) -> None:
    """``reason``: why labels that look like numbers are none, if they do."""
    if len(classes) == 1:
        raise DataError(f"{where}: {classes[0]!r} in every row; there is nothing to learn, choose another --label")
    if len(classes) > min(MAX_CLASSES, max(MAX_INTEGER_CLASSES, rows // 2)):
        raise DataError(
            f"{where}: {len(classes)} different texts in {rows} rows are no classes"
            + (f", and no numbers: {reason}; or " if reason else "; ")
            + "choose a --label with fewer values, or a numeric one"
        )
    if len(classes) > rows - rows // 5:  # what is left of the rows for training
        raise DataError(
            f"{where}: {len(classes)} different values in {rows} rows are too many to learn; "
            "give more rows, or choose a --label with fewer values"
        )


def require_one_kind(values: Sequence[str], where: str) -> None:
    """Refuse a quantity with a few rows that are none; ``values`` are the label column, with the missing ones.

    Raises:
        DataError: with the first such row; silently it would have made a class of each number.
    """
    rows = [i for i, gone in enumerate(is_missing(values)) if not gone]
    if any(mark_of_a_code(value) for value in set(values)):
        return  # all are texts
    numbers = [as_number(values[i]) for i in rows]
    odd = [i for i, number in zip(rows, numbers, strict=True) if number is None or not math.isfinite(number)]
    if not odd or numbers.count(None) > (1 - _NUMERIC_SHARE) * len(rows):
        return
    if len({number for number in numbers if number is not None and math.isfinite(number)}) > MAX_INTEGER_CLASSES:
        first, numeric = odd[0], len(rows) - len(odd)
        raise DataError(
            f"{where}: {in_row(values[first], first)} is no finite number, unlike {numeric} of {len(rows)} labels; "
            "mend such rows or leave them out, or, for classes, write a letter before each"
        )


def _spelt_alike(values: Sequence[str]) -> dict[str, str]:
    """The shortest spelling of each number by all that are there: 1, 1.0 and 1e0 are one class."""
    numbers = {text: _exact(text) for text in set(values)}
    shortest: dict[float, str] = {}
    for text in sorted(numbers, key=lambda text: (len(text), text)):
        shortest.setdefault(numbers[text], text)
    return {text: shortest[number] for text, number in numbers.items()}


def _exact(text: str) -> float:
    """Whole numbers without rounding: two long ones that are the same float64 remain two."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _are_classes(numbers: Floats) -> bool:
    distinct = np.unique(numbers)
    whole = bool((distinct == np.round(distinct)).all())
    return len(distinct) <= 2 or (whole and len(distinct) <= MAX_INTEGER_CLASSES)


def validation_part(target: Target) -> Mask:
    """A fifth of the rows, of each class a fifth: the same for the same labels, whatever the run's seed."""
    rng, n = np.random.default_rng(SPLIT_SEED), len(target.values)
    chosen = np.zeros(n, dtype=bool)
    groups = [np.flatnonzero(target.values == i) for i in range(len(target.classes))] or [np.arange(n)]
    for members in groups:
        chosen[rng.permutation(members)[4::5]] = True
    if not chosen.any():  # no class has five
        chosen[rng.permutation(n)[: n // 5]] = True
    return chosen


def encode(columns: Columns, train: Mask, where: str, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Features of all rows, shape ``(n, d)`` float32.

    ``train`` says which rows may be learned from, ``rows`` where each was in the file.

    Raises:
        DataError: no column tells anything.
    """
    parts: list[NDArray[np.float32]] = []
    for name, values in columns.items():
        numbers = as_numbers(values)
        coded: NDArray[np.float32] | None
        if numbers is not None:
            coded = _numeric(numbers, train)
        else:
            reason = why_no_numbers(values, rows or range(len(values)), more_than=MAX_INTEGER_CLASSES)
            coded = _categorical(f"{where}: column {name!r}", values, train, reason)
        if coded is None:
            continue
        if coded.shape[1] == 0:
            log.info("%s: column %r is left out, since it tells nothing", where, name)
        parts.append(coded)
    features = np.hstack(parts) if parts else np.zeros((len(train), 0), dtype=np.float32)
    if features.shape[1] == 0:
        raise DataError(f"{where}: no column beside the label tells instances apart; give a table with features")
    return features


def _numeric(numbers: Floats, train: Mask) -> NDArray[np.float32]:
    """Standardised, and drawn in to ±10 deviations; the mean stands for a missing value, and a column of its own."""
    missing = np.isnan(numbers)
    known = numbers[train & ~missing]
    parts: list[NDArray[np.float32]] = []
    if len(known):
        scale = Scale.of(known)
        if np.ptp(known / scale.largest) > _ROUNDING:
            standard = np.where(missing, 0.0, scale.standard(numbers))
            parts.append(np.clip(standard, -_MAX_DEVIATIONS, _MAX_DEVIATIONS).astype(np.float32)[:, None])
    return np.hstack([*parts, _flag(missing, train)])


def _flag(chosen: Mask, train: Mask) -> NDArray[np.float32]:
    """A column of 0 and 1; none at all where the training rows are all alike in it."""
    is_telling = 0 < np.count_nonzero(chosen & train) < np.count_nonzero(train)
    return chosen.astype(np.float32)[:, None] if is_telling else np.zeros((len(chosen), 0), dtype=np.float32)


def _categorical(column: str, values: Sequence[str], train: Mask, reason: str) -> NDArray[np.float32] | None:
    """One-hot of the most frequent categories, then one for the rarer and unknown, one for the missing.

    ``reason``: what keeps a column of many numbers from being one, which is not what its user wants. None where the
    column is left out, and that is said.
    """
    missing = is_missing(values)
    counts = Counter(value for value, ours, gone in zip(values, train, missing, strict=True) if ours and not gone)
    if len(counts) > MAX_CATEGORIES and len(counts) > sum(counts.values()) / 2:
        texts = f"{len(counts)} different texts, it looks like a name, a date or a code"
        log.warning("%s is left out: %s", column, reason or texts)
        return None
    if reason:
        log.warning("%s is taken for categories: %s", column, reason)
    known = sorted(counts, key=lambda category: (-counts[category], category))[:MAX_CATEGORIES]
    index = {category: i for i, category in enumerate(known)}
    rows = np.array([-1 if gone else index.get(value, -2) for value, gone in zip(values, missing, strict=True)])
    flags = [_flag(rows == i, train) for i in range(len(known))]
    return np.hstack([*flags, _flag(rows == -2, train), _flag(rows == -1, train)])
