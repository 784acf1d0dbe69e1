"""A table of the user's as columns of text: CSV by the standard library, Parquet by pyarrow if that is installed.

The whole table is in memory as Python strings while it is coded, some 60 bytes a cell: for tables of millions of cells.
"""

from __future__ import annotations

import csv
import importlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.errors import DataError
from workloads.idx import unzip

Columns = dict[str, list[str]]
"""Values of each column by its name, in the order of the file; what is missing is an empty text or a word for it."""

_PARQUET_MAGIC = b"PAR1"
_LONGEST_FIELD = 2**31 - 1
"""The csv module takes a C long, of 32 bits on some systems."""

_DELIMITERS = (",", ";", "\t", "|")
# A quote opens where a field begins, whatever parts the fields, and a doubled one does not close.
_QUOTED = r'(?:^|(?<=[,;\t|])) *"[^"]*(?:""[^"]*)*"'
_HEADER = re.compile(rf'(?:{_QUOTED}|[^\r\n" ]+|[" ])*')


def read_table(path: Path) -> tuple[bytes, Columns]:
    """Content of the file, and the columns in it. Parquet is known by its first bytes; ``.csv.gz`` is unzipped.

    Raises:
        DataError: unreadable, not a table, without rows, or pyarrow is missing.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"--data {path}: {error.strerror or error}; give a CSV or Parquet file") from error
    where = f"--data {path}"
    if content.startswith(_PARQUET_MAGIC) or path.suffix == ".parquet":
        columns = _parquet(content, where)
    else:
        columns = _csv(unzip(content, where=where), where)
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{where}: no rows; the first line names the columns, each other line is an instance")
    return content, columns


def _csv(content: bytes, where: str) -> Columns:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{where}: not UTF-8 text in line {line}; save it as CSV in UTF-8") from error
    if "\0" in text:
        raise DataError(f"{where}: binary content; give a CSV or Parquet file")
    # No field of this text is too long. The limit is the process's: never lowered, since another thread may be reading.
    csv.field_size_limit(max(csv.field_size_limit(), min(len(text), _LONGEST_FIELD)))
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    names: list[str] = []
    line, next_line = 1, 1  # where a row begins: a quote that is left open there goes on to the end of the file
    try:
        for row in reader:
            line, next_line = next_line, reader.line_num + 1
            if not row:
                continue  # a blank line
            if not names:
                names = _names(row, where)
                continue
            if len(row) != len(names):
                raise DataError(f"{where}: line {line} has {len(row)} fields, the header {len(names)}; mend the line")
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{where}: line {next_line}: {error}; mend the line") from error
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(names)}


def _delimiter(text: str) -> str:
    """The one that is most often in the header, outside quotes."""
    header = _HEADER.match(text.lstrip("\r\n"))
    outside = re.sub(_QUOTED, "", header.group() if header else "")
    return max(_DELIMITERS, key=outside.count)


def _names(header: Sequence[str], where: str) -> list[str]:
    names = [name.strip() or f"column {i}" for i, name in enumerate(header, start=1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: column {twice[0]!r} is there twice; give each a name of its own")
    return names


def _parquet(content: bytes, where: str) -> Columns:
    # Any: pyarrow ships no types, and need not be there.
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{where}: Parquet needs pyarrow (pip install 'autoassist[parquet]'); install it, or give CSV"
        ) from error
    unreadable = (arrow.ArrowException, OSError, ValueError)
    try:
        header = parquet.read_schema(arrow.BufferReader(content)).names
    except unreadable as error:
        raise DataError(f"{where}: not a Parquet file that can be read ({_reason(error)})") from error
    names = _names(header, where)  # first: pyarrow reads no table with a name twice
    try:
        table = parquet.read_table(arrow.BufferReader(content))
    except unreadable as error:
        raise DataError(f"{where}: not a Parquet file that can be read ({_reason(error)})") from error
    columns: Columns = {}
    for i, name in enumerate(names):
        try:
            columns[name] = [_text(value) for value in table.column(i).to_pylist()]
        # Python holds no date beyond the year 9999, no time zone that it does not know, and no text but UTF-8.
        except (*unreadable, ArithmeticError, ImportError, LookupError, TypeError) as error:
            raise DataError(
                f"{where}: column {name!r} cannot be read ({_reason(error)}); mend its values, store it as numbers or "
                "text, or leave it out"
            ) from error
    return columns


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _text(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value).strip()
