"""Columns of numbers: of any size and spread, and what is said of those that are none for a sign or a slip."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from workloads.table import Table
from workloads.table_coding import encode
from workloads.table_numbers import as_numbers

ROWS = 300
NUMBERS = [f"{value:.6f}" for value in np.random.default_rng(1).normal(size=ROWS)]
OTHER = ["1", "2"] * (ROWS // 2)


def coded(values: list[str]) -> NDArray[np.float32]:
    return encode({"a": values, "b": ["1", "2"] * (len(values) // 2)}, np.ones(len(values), dtype=bool), "x")


def warning_of(values: list[str], caplog: pytest.LogCaptureFixture) -> str:
    coded(values)
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return warned


# Of any spread


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("offset, unit", [(1.0, 1e-13), (1e6, 1e-8), (1.7e18, 1e3), (0.0, 1e-300)])
def test_numbers_of_little_spread_are_standardised_like_any(offset: float, unit: float) -> None:
    values = [repr(offset + unit * float(number)) for number in NUMBERS]
    column = coded(values)[:, 0]
    expected = np.array(NUMBERS, dtype=float)
    assert column.std() == pytest.approx(1.0, rel=1e-3) and np.corrcoef(column, expected)[0, 1] > 0.99


@pytest.mark.parametrize("values", [["0.3", "0.30000000000000004"], ["1e300", repr(np.nextafter(1e300, 0).item())]])
def test_a_constant_that_sums_have_rounded_tells_nothing(values: list[str]) -> None:
    """Standardised, the last digit would weigh as much as any other column."""
    assert coded(values * 2).shape == (4, 1)


@pytest.mark.filterwarnings("error")
def test_a_number_far_beyond_those_of_the_training_rows_is_drawn_in() -> None:
    train = np.array([True, True, False])
    assert encode({"a": ["1e-300", "2e-300", "-1e300"]}, train, "x").ravel().tolist() == [-1.0, 1.0, -10.0]


def test_a_column_of_which_no_training_row_has_a_number_tells_nothing() -> None:
    train = np.array([True, True, False])
    assert encode({"a": ["", "", "5"], "b": ["1", "2", "1"]}, train, "x").shape == (3, 1)


# No numbers

SLIP = "in row 299 (the header not counted) is no number, unlike 298 of 300 values; mend such values or empty them"
ADVICE = "write numbers with a decimal point and no other sign"


def alike(first: str, flaw: str) -> str:
    return f"{first!r} in row 1 (the header not counted) has {flaw}, like 300 of 300 values; {ADVICE}"


NO_NUMBERS = {
    "slips": ([*NUMBERS[:298], "unknown", "n.a."], f"'unknown' {SLIP}"),
    "a comma among points": (
        [*NUMBERS[:298], "0,5", "0,5"],
        f"'0,5' {SLIP.replace('is no number', 'has a decimal comma')}",
    ),
    "decimal commas": ([f"{i},35" for i in range(ROWS)], alike("0,35", "a decimal comma")),
    "percent": ([f"{i}.5 %" for i in range(ROWS)], alike("0.5 %", "a percent sign")),
    "dollars": ([f"$-{i}.5" for i in range(ROWS)], alike("$-0.5", "a currency sign")),
    "euros": ([f"{i},5 €" for i in range(ROWS)], alike("0,5 €", "a currency sign")),
    "thousands": ([f"{i + 1},000,000" for i in range(ROWS)], alike("1,000,000", "separators of thousands")),
    "perhaps thousands": ([f"{i},123" for i in range(ROWS)], alike("0,123", "a comma, decimal or of thousands")),
    "underscores": ([f"1_{i}" for i in range(ROWS)], alike("1_0", "an underscore")),
}


@pytest.mark.parametrize("values, reason", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_a_column_of_numbers_that_is_left_out_is_told_why(
    values: list[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "autoassist.workloads")
    assert warning_of(values, caplog) == f"x: column 'a' is left out: {reason}"
    assert len(caplog.records) == 1  # and not that it tells nothing


@pytest.mark.parametrize("values", [["unknown", "0,5"], ["0,5", "unknown"]])
def test_a_value_that_looks_like_no_number_does_not_stand_for_the_others(
    values: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    warned = warning_of([*values, *(f"{i},35" for i in range(298))], caplog)
    assert (
        f"'0,5' in row {values.index('0,5') + 1} (the header not counted) has a decimal comma, like 299 of 300"
        in warned
    )


def test_numbers_that_become_categories_for_a_slip_are_told_of_too(caplog: pytest.LogCaptureFixture) -> None:
    ages = [str(18 + i % 40) for i in range(299)]
    assert warning_of([*ages, "old"], caplog) == (
        "x: column 'a' is taken for categories: 'old' in row 300 (the header not counted) is no number, unlike 299 of "
        "300 values; mend such values or empty them"
    )


@pytest.mark.parametrize(
    "values",
    [["1", "2", "3", "other"] * 75, [f"{i % 20}%" for i in range(ROWS)], [f"{i % 4}-{i % 9}" for i in range(ROWS)]],
    ids=["few numbers", "few shares", "texts"],
)
def test_categories_that_may_well_be_some_are_not_talked_of(
    values: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    coded(values)
    assert not caplog.records


@pytest.mark.parametrize("text", ["2024-01-{}", "p{}", "10.0.0.{}", "{}:30"])
def test_names_and_dates_are_not_said_to_be_numbers(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "different texts, it looks like a name, a date or a code" in warning_of(
        [text.format(i) for i in range(ROWS)], caplog
    )


def test_the_row_that_is_named_is_the_file_s(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows without a label are left out before, and counted all the same."""
    path = tmp_path / "t.csv"
    rows = [f"{number},{label}" for number, label in zip(NUMBERS, OTHER, strict=True)]
    path.write_text("\n".join(["a,y", "0.5,", *rows, "unknown,1", "0,1"]) + "\n", encoding="utf-8")
    with pytest.raises(Exception, match="no column beside the label"):
        Table(data=path, label="y").fingerprint()
    assert "'unknown' in row 302 (the header not counted) is no number, unlike 301 of 302 values" in caplog.text


def test_an_underscore_makes_no_number() -> None:
    """Python takes 1_0 for 10."""
    assert as_numbers(["1_0", "2"]) is None
