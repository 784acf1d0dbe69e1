"""What a table's label is taken for, where its values are of two kinds, of several spellings, or very large."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.errors import DataError
from workloads import CheckedWorkload
from workloads.table import Table
from workloads.table_coding import MAX_INTEGER_CLASSES, Target, require_one_kind, target_of, validation_part

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


@pytest.mark.parametrize("labels", [["0", "1"], ["0", "0.0", "1"], ["00123", "0123", "123"], QUANTITY])
def test_no_role_joins_with_one_that_codes_the_same_file_otherwise(tmp_path: Path, labels: list[str]) -> None:
    """Earlier codings had the numbers 1, and 2 where a class had several spellings."""
    ours = table(tmp_path, labels * 10).fingerprint().dataset_id
    content = hashlib.sha256((tmp_path / "t.csv").read_bytes()).digest()
    earlier = [hashlib.sha256(content + f"{version} y".encode()).hexdigest()[:16] for version in (1, 2)]
    assert ours.removeprefix("table-train:") not in earlier


@pytest.mark.filterwarnings("error")
def test_a_quantity_too_large_to_be_squared_is_refused_and_any_other_is_learned(tmp_path: Path) -> None:
    """Its deviation would be infinite, and every target 0."""
    with pytest.raises(DataError, match=r"column 'y': numbers up to 1\.99e\+301 are too large .*; scale them below"):
        table(tmp_path, [f"{-i}e299" for i in range(200)]).fingerprint()
    _, targets = table(tmp_path, [f"{-i}e97" for i in range(200)]).batch(range(160))
    assert float(targets.std(correction=0)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "codes", [["00123", "0123", "123"], ["+01", "1", "1.0"], ["1_0", "10", "20"]], ids=["zeros", "sign", "underscore"]
)
def test_codes_that_python_takes_for_the_same_number_are_classes_of_their_own(codes: list[str]) -> None:
    target = target_of(codes * 10, "x")
    assert target.classes == tuple(sorted(codes)) and names(target) == codes * 10


@pytest.mark.parametrize("numbers", [["0", "-0.5", "0.25"], ["1", "1.0", "0"]])
def test_a_lone_zero_before_a_point_is_no_mark_of_a_code(numbers: list[str]) -> None:
    assert target_of(numbers * 10, "x").classes in ((), ("0", "1"))


def test_many_codes_are_classes_and_no_quantity_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """ZIP codes, of which few begin with a zero. A word among them is a class too."""
    codes = [*(str(10000 + 7 * i) for i in range(30)), "00501", "unknown"] * 4
    require_one_kind(codes, "x")
    assert len(target_of(codes, "x").classes) == 32
    assert "x: '00501' in row 31 (the header not counted) has a leading zero, as codes have" in caplog.text
    assert caplog.text.count("32 classes") == 1


@pytest.mark.parametrize("odd, mark", [("007", "a leading zero"), ("1_0", "an underscore")])
def test_codes_that_are_too_many_for_classes_are_refused(tmp_path: Path, odd: str, mark: str) -> None:
    """They would be learned as a quantity. A row without a label counts as a row."""
    with pytest.raises(DataError) as caught:
        table(tmp_path, ["", *(str(i) for i in range(100)), odd]).fingerprint()
    assert str(caught.value).endswith(
        "column 'y': 101 different texts in 101 rows are no classes, and no numbers: "
        f"'{odd}' in row 102 (the header not counted) has {mark}, as codes have; write numbers without; "
        "or choose a --label with fewer values, or a numeric one"
    )


def test_a_text_that_looks_like_a_code_is_not_to_blame_among_names() -> None:
    with pytest.raises(DataError, match=r"31 different texts in 31 rows are no classes; choose"):
        target_of(["007", *(f"p{i}" for i in range(30))], "x")


def test_labels_with_decimal_commas_are_refused_for_these() -> None:
    values = [f"{i},5" for i in range(40)]
    with pytest.raises(DataError, match=r"and no numbers: '0,5' in row 1 .* has a decimal comma, like 40 of 40 values"):
        target_of(values, "x")


@pytest.mark.parametrize("labels", [list("abcdefghij"), [str(i) for i in range(10)], [*"abcdefghi", "a"]])
def test_nearly_as_many_classes_as_rows_are_refused_in_the_user_s_words(tmp_path: Path, labels: list[str]) -> None:
    """As many classes as there are training rows broke the promise of labels()."""
    with pytest.raises(
        DataError, match=r"column 'y': \d+ different values in 10 rows are too many to learn; give more"
    ):
        CheckedWorkload(table(tmp_path, labels)).labels()


def test_as_many_classes_as_training_rows_are_learned(tmp_path: Path) -> None:
    labels = CheckedWorkload(table(tmp_path, [*"abcdefgh", "a", "b"])).labels()
    assert labels is not None and len(labels) == 8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", ["e-19", "e-160", "e-300", "e0", "e97"])
def test_a_quantity_of_any_unit_is_standardised_and_its_error_is_in_that_unit(tmp_path: Path, unit: str) -> None:
    """A Boss that always says the mean errs by the deviation."""
    workload = table(tmp_path, [f"{i}{unit}" for i in range(-50, 50)])
    _, targets = workload.batch(range(80))
    assert float(targets.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(targets.std(correction=0)) == pytest.approx(1.0)
    boss = workload.boss()
    for parameter in boss.parameters():
        torch.nn.init.zeros_(parameter)
    scale = float(f"1{unit}")
    validation, train = workload.table.validation_targets / scale, workload.table.train_targets / scale
    expected = np.sqrt(((validation - train.mean()) ** 2).mean())
    assert workload.evaluate(boss, torch.device("cpu")).value / scale == pytest.approx(expected)


def test_a_quantity_that_is_constant_in_the_training_rows_stays_finite(tmp_path: Path) -> None:
    held_out = np.flatnonzero(validation_part(Target(np.arange(50.0))))
    labels = ["0.1"] * 50
    labels[held_out[0]], labels[held_out[1]] = "0.2", "0.3"
    _, targets = table(tmp_path, labels).batch(range(40))
    assert targets.tolist() == [0.0] * 40
