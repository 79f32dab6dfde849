"""Tables of labels: CSV, JSON Lines and Parquet, with a column for the path and one for the label."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from retrain.config import Split
from retrain.data.files import SPLIT_NAMES, split_called
from retrain.errors import DropError
from retrain.utils.extras import import_extra

TABLES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
"""Names of tables next to images, as in Hugging Face's `imagefolder`."""
FORMATS = ("csv", "jsonl", "parquet")
PATH = ("path", "file_name", "url")
LABEL = ("label", "class")


class Row(NamedTuple):
    """One row of a table."""

    place: str
    """The line of a text table, such as `line 2`, or the row of a Parquet file, such as `row 1`. Both count from 1."""
    path: str
    label: str
    split: Split | None
    id: str
    """The sample's id. Empty if the table has none."""


def read_table(data: bytes, extension: str, where: str) -> Iterator[Row]:
    """Yield the rows of a table.

    Raises `DropError`, with `where` and the row's place, if the data are no table or lack a column.
    """
    path = label = ""
    for place, row in read_records(data, extension, where, (*PATH, *LABEL, "split", "id")):
        if not path:
            path, label = _column(row, PATH, where), _column(row, LABEL, where)
        of_row = f"{where}: {place}"
        texts = {name: cell_text(row.get(name), name, of_row) for name in (path, label, "split", "id")}
        split = split_called(texts["split"])
        if texts["split"] and not split:
            raise DropError(f"{of_row}: split {texts['split']!r}; allowed are {', '.join(SPLIT_NAMES)}")
        yield Row(place, texts[path], texts[label], split, texts["id"])


def read_records(
    data: bytes, extension: str, where: str, columns: Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place (`Row.place`) of each row of a table, and the row unchanged.

    In a Parquet file, only `columns` are read, or by default all columns. Raises `DropError` if the data are not a
    table in this format, and `UserError` if pyarrow is missing.
    """
    if extension == "parquet":
        return _parquet_rows(data, where, columns)
    return _csv_rows(data, where) if extension == "csv" else _jsonl_rows(data, where)


def _column(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    found = [name for name in names if name in row]
    if len(found) != 1:
        advice = "If labels come from elsewhere, choose --label-from (in a task: data.label_from)"
        if {"key", "content"} & row.keys() and {"class", "remove"} & row.keys():
            advice = "If the table lists corrections of committed drops, pass it to `retrain drop amend`"
        if len(row) == 1 and re.search(r"[;\t]", str(*row)):
            advice = "Separate columns by commas"
        raise DropError(
            f"{where}: needs one column called {' or '.join(names)}; its columns are {', '.join(map(str, row))}. "
            f"{advice}"
        )
    return found[0]


def cell_text(value: object, column: str, where: str) -> str:
    """Return a value as text. NaN becomes an empty string, and 3.0 becomes 3.

    A column of whole numbers with empty cells may be stored as floating-point numbers. Raises `DropError`, with
    `where`, for a number such as 3.5, a list or an object.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return _decoded(value, where)
    if isinstance(value, float | list | dict):
        raise DropError(f"{where}: {column} is {value!r}; expected text or a whole number")
    return str(value)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DropError(f"{where}: not text in UTF-8: convert it to UTF-8") from error


def open_csv(text: str, where: str) -> "csv.DictReader[str]":
    """Return a reader of a CSV's rows. It raises `csv.Error`, for example for a quotation mark that is not closed.

    Raises `DropError`, with `where`, if two columns have the same name.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or ()
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DropError(f"{where}: two columns are called {twice[0]!r}: rename or remove one of them")
    return reader


def _csv_rows(data: bytes, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        reader = open_csv(_decoded(data, where), where)
        for row in reader:
            if None in row:
                raise DropError(
                    f"{where}: line {reader.line_num} has more values than there are columns; put quotation marks "
                    "around a value that contains a comma"
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise DropError(f"{where}: cannot be read: {error}; check its quotation marks") from error


def _jsonl_rows(data: bytes, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_decoded(data, where).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DropError(f"{where}: line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DropError(f"{where}: line {number} is not a JSON object: write one object on each line")
            yield f"line {number}", row


def _parquet_rows(data: bytes, where: str, columns: Collection[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet = import_extra("pyarrow.parquet", f"{where}: Parquet")
    failures = import_extra("pyarrow", f"{where}: Parquet").ArrowException, OSError, ValueError  # text not in UTF-8
    try:
        table = parquet.ParquetFile(io.BytesIO(data))
        wanted = [name for name in table.schema_arrow.names if columns is None or name in columns]
        batches = table.iter_batches(columns=wanted)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            yield f"row {number}", row
    except failures as error:
        raise DropError(f"{where}: cannot be read: {error}") from error
