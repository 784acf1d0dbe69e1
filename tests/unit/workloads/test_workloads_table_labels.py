"""What a table's label is taken for, where its values are of two kinds, of several spellings, or very large."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import DataError
from workloads.table import Table
from workloads.table_coding import MAX_INTEGER_CLASSES, Target, require_one_kind, target_of

QUANTITY = [f"{value:.1f}" for value in np.random.default_rng(1).normal(50, 10, 200).round()]


def table(folder: Path, labels: list[str]) -> Table:
    path = folder / "t.csv"
    path.write_text("\n".join(["a,y", *(f"{i},{label}" for i, label in enumerate(labels))]) + "\n", encoding="utf-8")
    return Table(data=path, label="y")


def names(target: Target) -> list[str]:
    return [target.classes[i] for i in target.values]


@pytest.mark.parametrize(
    "labels, taken_for", [(["a", "b", "c"] * 10, "3 classes"), (QUANTITY, "a quantity")], ids=["classes", "quantity"]
)
def test_the_log_says_what_the_label_is_taken_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[str], taken_for: str
) -> None:
    caplog.set_level(logging.INFO, "autoassist.workloads")
    table(tmp_path, labels).fingerprint()
    assert f"label 'y': {taken_for}" in caplog.messages[-1]


@pytest.mark.parametrize("odd", ["-", "inf", "-nan", "12,5"])
def test_a_quantity_with_an_odd_value_is_refused_with_its_row(tmp_path: Path, odd: str) -> None:
    """It would be dozens of classes, without a word. A row without a label counts as a row."""
    labels = [*QUANTITY[:5], "", f'"{odd}"', *QUANTITY[5:], f'"{odd}"']
    with pytest.raises(DataError) as caught:
        table(tmp_path, labels).fingerprint()
    assert str(caught.value).endswith(
        f"column 'y': '{odd}' in row 7 (the header not counted) is no finite number, unlike 200 of 202 labels; "
        "mend such rows or leave them out, or, for classes, write a letter before each"
    )


def test_a_label_with_many_infinite_values_is_told_of_them() -> None:
    """Not that it should be numeric: it is."""
    with pytest.raises(DataError, match="'inf' in row 1 "):
        require_one_kind(["inf"] * 50 + QUANTITY, "x")


@pytest.mark.parametrize(
    "labels",
    [
        ["1", "2", "3"] * 50 + ["other"],
        [str(i) for i in range(MAX_INTEGER_CLASSES)] * 10 + ["other"],
        ["1.5", "2.5", "3.5"] * 50 + ["other"],
        [str(i) for i in range(MAX_INTEGER_CLASSES + 1)] * 9 + ["a"] * 10,
    ],
    ids=["few", "as many as are classes", "fractions", "one in twenty is text"],
)
def test_numbers_and_a_word_are_classes_where_the_numbers_are_few_or_the_words_many(
    tmp_path: Path, labels: list[str]
) -> None:
    assert set(table(tmp_path, labels).table.classes) == set(labels)


def test_the_same_number_spelt_otherwise_is_the_same_class() -> None:
    values = ["0", "0.0", "1.0", "1", "1e0", "10", "9.00"] * 5
    target = target_of(values, "x")
    assert target.classes == ("0", "1", "9.00", "10")
    assert [float(name) for name in names(target)] == [float(value) for value in values]


def test_one_number_in_two_spellings_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="'1' in every row; there is nothing to learn"):
        target_of(["1", "1.0"] * 10, "x")


def test_words_that_look_like_the_same_number_are_classes_of_their_own_beside_other_words() -> None:
    """Hexadecimal codes, for one."""
    assert target_of(["10", "1e1", "a0"] * 5, "x").classes == ("10", "1e1", "a0")


def test_long_whole_numbers_that_are_alike_in_float64_are_two_classes() -> None:
    values = ["12345678901234567", "12345678901234568"] * 10
    assert names(target_of(values, "x")) == values


def test_the_fingerprint_changes_only_where_a_class_has_several_spellings(tmp_path: Path) -> None:
    """The identity of any other file is that of earlier releases, whose classes were the same."""
    for labels in (["0", "1"], ["0.5", "1"], ["no", "1"], ["1.0e1", "1"], QUANTITY, ["0", "0.0", "1"]):
        workload = table(tmp_path, labels * 10)
        content = (tmp_path / "t.csv").read_bytes()
        before = hashlib.sha256(hashlib.sha256(content).digest() + b"1 y").hexdigest()[:16]
        is_kept = workload.fingerprint().dataset_id == f"table-train:{before}"
        assert is_kept == (labels != ["0", "0.0", "1"]), labels


@pytest.mark.filterwarnings("error")
def test_a_quantity_too_large_to_be_squared_is_refused_and_any_other_is_learned(tmp_path: Path) -> None:
    """Its deviation would be infinite, and every target 0."""
    with pytest.raises(DataError, match=r"column 'y': numbers up to 1\.99e\+301 are too large .*; scale them below"):
        table(tmp_path, [f"{-i}e299" for i in range(200)]).fingerprint()
    _, targets = table(tmp_path, [f"{-i}e97" for i in range(200)]).batch(range(160))
    assert float(targets.std(correction=0)) == pytest.approx(1.0)
