"""A table of the user's: how it is read and coded, what is learned from it, and every mistake in one line."""

from __future__ import annotations

import gzip
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.errors import DataError, SettingError, UserError, WorkloadError
from workloads import CheckedWorkload, load_workload, validate_workload
from workloads.table import Table
from workloads.table_coding import MAX_CATEGORIES, encode, target_of, validation_part
from workloads.table_files import read_table
from workloads.table_numbers import as_numbers

CPU = torch.device("cpu")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines as a file and gives its path."""

    def to_file(*lines: str, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return to_file


@pytest.fixture
def people(write: Write) -> Path:
    """40 rows: a number, a category, and a class and a quantity that follow from them."""
    rows = [f"{i},{'abc'[i % 3]},{'yes' if i > 19 else 'no'},{i / 3 + i % 3}" for i in range(40)]
    return write("age,city,rich,weight", *rows)


def table(path: Path, label: str, model: str = "") -> Table:
    workload = load_workload("table", data=path, label=label, model=model)
    assert isinstance(workload, Table)
    return workload


def read(path: Path) -> dict[str, list[str]]:
    return read_table(path)[1]


# Reading


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_of_the_header(write: Write, delimiter: str) -> None:
    assert read(write(*(delimiter.join(row) for row in ("ab", "12", "34")))) == {"a": ["1", "3"], "b": ["2", "4"]}


def test_quotes_blank_lines_spaces_and_a_byte_order_mark_are_read_as_spreadsheets_write_them(write: Write) -> None:
    path = write('\ufeffname, "a, b"', "", '"two\nlines", "x, ""y"""', "plain,  2 ", "")
    assert read(path) == {"name": ["two\nlines", "plain"], "a, b": ['x, "y"', "2"]}


def test_a_gzipped_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert read(tmp_path / "t.csv.gz") == {"a": ["1"], "b": ["2"]}


def test_a_column_without_a_name_gets_one(write: Write) -> None:
    assert list(read(write(",b", "1,2"))) == ["column 1", "b"]


BAD_FILES = {
    "nothing": (b"", "no rows"),
    "a header alone": (b"a,b\n", "no rows; the first line names the columns"),
    "a short line": (b"a,b\n1,2\n3\n", "line 3 has 1 fields, the header 2; mend the line"),
    "a column twice": (b"a,b,a\n1,2,3\n", "column 'a' is there twice"),
    "another encoding": (b"a,b\n1,2\n3,\xe9\n", "not UTF-8 text in line 3; save it as CSV in UTF-8"),
    "binary": (b"a,b\n\0\0,2\n", "binary content; give a CSV or Parquet file"),
    "a quote left open": (b'a,b\n1,"2\n', "line 2: unexpected end of data; mend the line"),
    "half a gzip": (gzip.compress(b"a,b\n1,2\n")[:-9], "damaged or truncated gzip"),
}


@pytest.mark.parametrize("content, complaint", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_table_is_told_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"--data {path}: ") and complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(DataError, match=f"--data {path}: .*; give a CSV or Parquet file"):
            read_table(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t").write_bytes(b"PAR1 and so on")
    with pytest.raises(DataError, match=r"Parquet needs pyarrow \(pip install 'autoassist\[parquet\]'\); .*give CSV"):
        read_table(tmp_path / "t")


needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an extra")


@needs_pyarrow
def test_parquet_gives_what_csv_gives(tmp_path: Path, people: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = read(people)
    typed = {name: as_numbers(values) for name, values in columns.items()}
    arrays = {name: columns[name] if numbers is None else numbers for name, numbers in typed.items()}
    parquet.write_table(pyarrow.table(arrays), tmp_path / "t.parquet")
    theirs, ours = table(tmp_path / "t.parquet", "rich").table, table(people, "rich").table
    assert np.array_equal(theirs.train_features, ours.train_features) and theirs.classes == ours.classes
    assert theirs.fingerprint != ours.fingerprint


@needs_pyarrow
def test_parquet_s_nulls_are_missing_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": [1.5, None], "b": ["x", None], "c": [True, False]}), path)
    assert read(path) == {"a": ["1.5", ""], "b": ["x", ""], "c": ["True", "False"]}
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"--data {path}: not a Parquet file that can be read"):
        read_table(path)


# Coding


ALL = np.ones(4, dtype=bool)


def test_numbers_are_standardised_over_the_training_rows_alone() -> None:
    train = np.array([True, True, True, False])
    (column,) = encode({"a": ["1", "2", "3", "1e3"]}, train, "x").T
    assert column[:3].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5]) and column[3] == 10.0  # drawn in


def test_a_missing_number_is_the_mean_and_told_as_missing() -> None:
    assert encode({"a": ["1", "NA", "3", "inf"]}, ALL, "x").tolist() == [[-1, 0], [0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize("words", [["1e300", "-1e300", "0", "0"], ["1e-300", "2e-300", "0", "0"], ["5", "5", "5", "6"]])
def test_numbers_of_any_size_stay_finite(words: list[str]) -> None:
    coded = encode({"a": words}, ALL, "x")
    assert np.isfinite(coded).all() and coded.std() == pytest.approx(1.0)


def test_categories_are_one_hot_with_a_column_for_the_missing_and_the_unknown() -> None:
    train = np.array([True, True, True, True, False])
    coded = encode({"a": ["x", "y", "?", "x", "new"]}, train, "x")
    assert coded.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_rare_categories_share_a_column() -> None:
    words = [f"c{i}" for i in range(MAX_CATEGORIES + 10) for _ in range(3)]
    coded = encode({"a": words}, np.ones(len(words), dtype=bool), "x")
    assert coded.shape[1] == MAX_CATEGORIES + 1 and (coded.sum(axis=1) == 1).all()
    assert coded[:, -1].sum() == 30


def test_a_column_of_names_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    n = 60
    coded = encode({"id": [f"p{i}" for i in range(n)], "a": ["1", "2"] * 30}, np.ones(n, dtype=bool), "x")
    assert coded.shape == (n, 1)
    assert "column 'id' is left out: 60 different texts" in caplog.text


def test_columns_that_tell_nothing_are_left_out() -> None:
    constant = {"a": ["5"] * 4, "b": [""] * 4, "c": ["x"] * 4}
    assert encode({**constant, "d": ["1", "2", "1", "2"]}, ALL, "x").shape == (4, 1)
    with pytest.raises(DataError, match="x: no column beside the label tells instances apart"):
        encode(constant, ALL, "x")


# The label

LABELS = {
    "texts": (["b", "a"] * 10, ("a", "b")),
    "few whole numbers": (["10", "9", "1"] * 10, ("1", "9", "10")),
    "two numbers": (["0.5", "1.5"] * 10, ("0.5", "1.5")),
    "many whole numbers": ([str(i) for i in range(21)], ()),
    "fractions": (["0.5", "1", "2"] * 10, ()),
}


@pytest.mark.parametrize("values, classes", LABELS.values(), ids=LABELS.keys())
def test_few_values_are_classes_and_numbers_a_quantity(values: list[str], classes: tuple[str, ...]) -> None:
    target = target_of(values, "x")
    assert target.classes == classes
    if classes:
        assert [classes[i] for i in target.values] == values
    else:
        assert target.values.tolist() == [float(value) for value in values]


def test_a_fifth_of_each_class_is_for_validation_and_always_the_same() -> None:
    target = target_of(["a"] * 50 + ["b"] * 10 + ["c"] * 2, "x")
    chosen = validation_part(target)
    assert np.bincount(target.values[chosen], minlength=3).tolist() == [10, 2, 0]
    assert np.array_equal(chosen, validation_part(target))
    assert validation_part(target_of([f"{i % 5}" for i in range(10)], "x")).sum() == 2


BAD_LABELS = {
    "no such column": ("Rich", r"no column 'Rich'; did you mean 'rich'\? its columns are 'age', 'city', 'rich'"),
    "none given": ("", r"label is missing; give --label one of the columns of .*: 'age', 'city', 'rich'"),
}


@pytest.mark.parametrize("label, complaint", BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_a_label_that_is_no_column_is_named(people: Path, label: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        table(people, label).fingerprint()


BAD_COLUMNS = {
    "one class": (["x"] * 20, "column 'y': 'x' in every row; there is nothing to learn"),
    "one number": (["7"] * 20, "column 'y': '7' in every row"),
    "names": ([f"p{i}" for i in range(30)], "column 'y': 30 different texts in 30 rows are no classes"),
    "no label at all": (["", "?"] * 10, "column 'y': 0 rows have a label; at least 10 are needed"),
    "few rows": (["a", "b"] * 4, "column 'y': 8 rows have a label; at least 10 are needed"),
}


@pytest.mark.parametrize("values, complaint", BAD_COLUMNS.values(), ids=BAD_COLUMNS.keys())
def test_a_label_from_which_nothing_can_be_learned_is_told(write: Write, values: list[str], complaint: str) -> None:
    path = write("a,y", *(f"{i},{value}" for i, value in enumerate(values)))
    with pytest.raises(DataError, match=complaint):
        table(path, "y").fingerprint()


def test_rows_without_a_label_are_left_out_and_counted(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write("a,y", *(f"{i},{'xy'[i % 2] if i else ''}" for i in range(21)))
    assert len(table(path, "y").table.train_targets) == 16
    assert "1 rows without 'y' are left out" in caplog.text


# The workload


@pytest.mark.parametrize("label, metric", [("rich", "validation_accuracy"), ("weight", "validation_rmse")])
def test_the_workload_keeps_the_interface_s_promises_and_learns(people: Path, label: str, metric: str) -> None:
    workload = table(people, label)
    validate_workload(workload)
    checked = CheckedWorkload(workload)
    torch.manual_seed(1)
    boss = checked.boss()
    optimizer = checked.optimizer(boss)
    before = checked.evaluate(boss, CPU)
    inputs, targets = checked.batch(range(checked.fingerprint().n))
    for _ in range(150):
        optimizer.zero_grad()
        checked.losses(boss(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = checked.evaluate(boss, CPU)
    assert (before.name, after.higher_is_better) == (metric, metric == "validation_accuracy")
    assert after.value >= 0.8 if after.higher_is_better else after.value < before.value / 3
    assert (checked.labels() is None) == (label == "weight")


def test_the_error_of_a_quantity_is_in_the_label_s_own_unit(people: Path) -> None:
    """A Boss that always says the mean errs by the deviation."""
    workload = table(people, "weight", "mlp-4")
    boss = workload.boss()
    for parameter in boss.parameters():
        torch.nn.init.zeros_(parameter)
    validation, mean = workload.table.validation_targets, workload.table.train_targets.mean()
    assert workload.evaluate(boss, CPU).value == pytest.approx(np.sqrt(((validation - mean) ** 2).mean()))
    _, targets = workload.batch(range(32))
    assert float(targets.mean()) == pytest.approx(0.0, abs=1e-6) and float(targets.std(correction=0)) == pytest.approx(
        1
    )


def test_the_fingerprint_is_the_file_s_content_and_the_label(people: Path, tmp_path: Path) -> None:
    """The same file under another name is the same data; one changed byte, or another label, is not."""
    mine = table(people, "rich").fingerprint()
    copy = tmp_path / "copy.csv"
    copy.write_bytes(people.read_bytes())
    assert table(copy, "rich").fingerprint() == mine and mine.n == 32
    assert table(people, "city").fingerprint() != mine
    copy.write_bytes(people.read_bytes().replace(b"39,a", b"38,a"))
    assert table(copy, "rich").fingerprint() != mine


def test_the_layers_follow_the_model_s_name(people: Path) -> None:
    assert [p.shape[0] for p in table(people, "rich").boss().parameters() if p.ndim == 2] == [128, 64, 2]
    shapes = [tuple(p.shape) for p in table(people, "rich", "mlp-7").boss().parameters() if p.ndim == 2]
    assert shapes == [(7, 5), (2, 7)]  # age, three cities, weight
    for model in ("resnet8", "mlp-", "mlp-0", "mlp-128-"):
        with pytest.raises(WorkloadError, match=f"model '{model}' is unknown; use mlp, or .*mlp-256-128"):
            table(people, "rich", model)


def test_without_a_file_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data is missing; table needs --data FILE .* and --label COLUMN"):
        load_workload("table").fingerprint()
    with pytest.raises(SettingError, match=f"data_dir={tmp_path}: table reads one file; give --data FILE"):
        load_workload("table", data_dir=tmp_path)


@pytest.mark.parametrize("given", [{"data": Path("t.csv")}, {"label": "y"}])
def test_a_workload_that_reads_no_table_refuses_one(given: dict[str, Path | str]) -> None:
    """Else a user would believe that his file was trained on."""
    with pytest.raises(SettingError, match=r"workload digits reads no table; leave out --(data|label), or run table"):
        load_workload("digits", **given)  # type: ignore[arg-type]


def test_a_workload_of_the_user_s_may_take_data_and_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(
        "from workloads.digits import Digits\nclass Mine(Digits):\n"
        "    def __init__(self, *, data=None, label='', **given):\n"
        "        super().__init__(**given)\n        self.given = (data, label)\n"
    )
    workload = load_workload(f"{tmp_path / 'mine.py'}:Mine", data=Path("x.csv"), label="y")
    assert workload.given == (Path("x.csv"), "y")  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autoassist.workloads")
