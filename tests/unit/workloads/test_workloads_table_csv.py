"""How a CSV file is taken apart: what parts its fields, how long they may be, and where a quote was left open."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import DataError
from workloads.table_files import read_table

PLAIN_LIMIT = 131072


@pytest.fixture(autouse=True)
def _limit_of_a_fresh_process() -> Iterator[None]:
    before = csv.field_size_limit(PLAIN_LIMIT)
    yield
    csv.field_size_limit(before)


def names(folder: Path, header: str, row: str) -> list[str]:
    path = folder / "t.csv"
    path.write_text(f"{header}\n{row}\n", encoding="utf-8")
    return list(read_table(path)[1])


HEADERS = {
    "commas in quotes": ('"Income, yearly, USD";b;y', ["Income, yearly, USD", "b", "y"]),
    "bars in quotes": ('"a|b|c|d",b,y', ["a|b|c|d", "b", "y"]),
    "in the middle": ('b;"Income, yearly, USD";y', ["b", "Income, yearly, USD", "y"]),
    "after a space": ('b; "Income, yearly, USD";y', ["b", "Income, yearly, USD", "y"]),
    "doubled quotes": ('"so ""a, b, c"", d";b;y', ['so "a, b, c", d', "b", "y"]),
    "two lines": ('"a\nb";"c, d, e";y', ["a\nb", "c, d, e", "y"]),
    "a quote within a field": ('5" pipe;6" pipe, wide;y', ['5" pipe', '6" pipe, wide', "y"]),
}


@pytest.mark.parametrize("header, expected", HEADERS.values(), ids=HEADERS.keys())
def test_what_parts_fields_is_counted_outside_quotes_alone(tmp_path: Path, header: str, expected: list[str]) -> None:
    row = next(sign for sign in ";,|" if len(next(csv.reader([header.replace("\n", " ")], delimiter=sign))) == 3)
    assert names(tmp_path, header, row.join("123")) == expected


def test_a_text_of_any_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'a,b\n1,"{"x" * 2 * PLAIN_LIMIT}"\n', encoding="utf-8")
    assert len(read_table(path)[1]["b"][0]) == 2 * PLAIN_LIMIT


def test_a_higher_limit_of_the_process_is_left_alone(tmp_path: Path) -> None:
    csv.field_size_limit(10**9)
    names(tmp_path, "a,b", "1,2")
    assert csv.field_size_limit() == 10**9


@pytest.mark.parametrize("end, complaint", [("", "unexpected end of data"), ('1,"2"\n', "',' expected after '\"'")])
def test_a_quote_that_is_left_open_is_told_with_the_line_in_which_it_opens(
    tmp_path: Path, end: str, complaint: str
) -> None:
    """Not with the one that the reader has come to, which may be the last of the file."""
    path = tmp_path / "t.csv"
    path.write_text('a,b\n\n1,2\n1,"2\n' + "1,2\n" * 1000 + end, encoding="utf-8")
    with pytest.raises(DataError, match=f"line 4: {complaint}; mend the line"):
        read_table(path)
