"""Which texts of a table are numbers, and what is wrong with those that only look like some.

Nothing is guessed: 0,35 is no number here, since 345,584 could be two. Whoever reads a column says so with its row.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
"""Words for a missing value, in small letters."""

_CODE = re.compile(r"[+-]?0\d+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([,.'’\s])\d{3}(?:\1\d{3})*(?:[.,]\d+)?")
_PERHAPS = re.compile(r"[^\w]{0,4}\d[\d.,'’\s_]*(?:[eE][+-]?\d+)?\W{0,3}")
"""Whatever is worth a closer look; a table may have millions of names."""

LOOKED_AT = 2000
"""Different values that tell whether a column's others are worth a look."""

_AMOUNT = re.compile(r"[+-]?\s*\d[\d.,'’\s]*")


def is_missing(values: Sequence[str]) -> Mask:
    """Which values are words for a missing one."""
    return np.array([value.lower() in MISSING for value in values], dtype=bool)


def as_number(text: str) -> float | None:
    """None for what is no number, and for 1_0: Python takes that for 10, people take it for a code."""
    return None if "_" in text else _as_python_does(text)


def _as_python_does(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def as_numbers(values: Sequence[str]) -> Floats | None:
    """The column as numbers, NaN where missing or not finite; None if a value is no number, or all are missing."""
    missing = is_missing(values)
    if missing.all() or any("_" in value for value in values):
        return None
    try:
        numbers = np.array(["nan" if gone else value for value, gone in zip(values, missing, strict=True)], dtype=float)
    except ValueError:
        return None
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def mark_of_a_code(text: str) -> str:
    """What tells that digits are a code and no number, 00123 or 1_0; empty where nothing does."""
    if _CODE.fullmatch(text):
        return "a leading zero"
    return "an underscore" if "_" in text and _as_python_does(text) is not None else ""


def in_row(value: str, row: int) -> str:
    """A value and where it is, for a message; ``row`` counts from 0."""
    return f"{value[:40]!r} in row {row + 1} (the header not counted)"


def why_no_numbers(values: Sequence[str], rows: Sequence[int], more_than: int) -> str:
    """What keeps a column that is mostly numbers from being all numbers; ``rows`` are those of the file.

    Empty where most of it does not even look like numbers, or where these are at most ``more_than`` different ones:
    they may well be categories.
    """
    given = Counter(value for value in values if value.lower() not in MISSING)  # in the order of their first rows
    if len(given) > LOOKED_AT and 4 * sum(map(_looks_like_one, islice(given, LOOKED_AT))) < LOOKED_AT:
        return ""  # names, of which there may be millions
    flaws = {value: _flaw(value) for value in given if as_number(value) is None}
    plain = sum(count for value, count in given.items() if value not in flaws)
    flawed = Counter({value: given[value] for value, flaw in flaws.items() if flaw})
    different = len(given) - len(flaws) + len(flawed)
    if not flaws or different <= more_than or 2 * (plain + flawed.total()) <= given.total():
        return ""
    is_mostly_plain = 2 * plain > given.total()
    first = next(iter(flaws if is_mostly_plain else flawed))
    what = f"{in_row(first, rows[values.index(first)])} {f'has {flaws[first]}' if flaws[first] else 'is no number'}"
    if is_mostly_plain:
        return f"{what}, unlike {plain} of {given.total()} values; mend such values or empty them"
    alike = sum(given[value] for value, flaw in flaws.items() if flaw == flaws[first])
    return f"{what}, like {alike} of {given.total()} values; write numbers with a decimal point and no other sign"


def _looks_like_one(text: str) -> bool:
    return _PERHAPS.fullmatch(text) is not None or as_number(text) is not None


def _flaw(text: str) -> str:
    """What keeps a text that looks like a number from being one; empty where it looks like none."""
    if not _PERHAPS.fullmatch(text):
        return ""
    if "_" in text:
        return "an underscore"
    if _THOUSANDS.fullmatch(text):
        is_either = text.count(",") == 1 and _DECIMAL_COMMA.fullmatch(text)
        return "a comma, decimal or of thousands" if is_either else "separators of thousands"
    if _DECIMAL_COMMA.fullmatch(text):
        return "a decimal comma"
    if text.endswith("%") and _AMOUNT.fullmatch(text[:-1]):
        return "a percent sign"
    bare = "".join(sign for sign in text if unicodedata.category(sign) != "Sc").strip()
    return "a currency sign" if len(bare) < len(text) and _AMOUNT.fullmatch(bare) else ""
