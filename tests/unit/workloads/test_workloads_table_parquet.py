"""Parquet holds more than Python does: every column that cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import DataError
from workloads.table_files import read_table

arrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
parquet: Any = pytest.importorskip("pyarrow.parquet")

TOO_FAR = 10**7  # days
UNREADABLE: dict[str, Callable[[], Any]] = {
    "a date beyond the year 9999": lambda: arrow.array([0, TOO_FAR], arrow.int32()).cast(arrow.date32()),
    "a time beyond the year 9999": lambda: arrow.array([0, TOO_FAR * 86400], arrow.int64()).cast(arrow.timestamp("s")),
    "an unknown time zone": lambda: arrow.array([0, 1], arrow.timestamp("s", tz="Mars/Olympus")),
    "text that is not UTF-8": lambda: arrow.Array.from_buffers(
        arrow.string(), 2, [None, arrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), arrow.py_buffer(b"x\xff")]
    ),
}


def written(path: Path, table: Any) -> Path:
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize("values", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_column_that_python_cannot_hold_is_named(tmp_path: Path, values: Callable[[], Any]) -> None:
    path = written(tmp_path / "t.parquet", arrow.table({"a": [1, 2], "b": values()}))
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"--data {path}: column 'b' cannot be read (")
    assert str(caught.value).endswith("); mend its values, store it as numbers or text, or leave it out")


def test_a_column_that_is_there_twice_is_told_as_in_csv(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", arrow.Table.from_arrays([arrow.array([1, 2])] * 3, names=["a", "b", "a"]))
    with pytest.raises(DataError, match="column 'a' is there twice; give each a name of its own"):
        read_table(path)
