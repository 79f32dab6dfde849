"""Tables of labels: CSV, JSON Lines and Parquet, with a column for the path and one for the label."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from retrain.config import Split
from retrain.data.files import SPLIT_NAMES
from retrain.errors import DropError

TABLES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
"""Names under which a table is found beside images, as Hugging Face's `imagefolder` has them."""
FORMATS = ("csv", "jsonl", "parquet")
PATH = ("path", "file_name", "url")
LABEL = ("label", "class")


class Row(NamedTuple):
    """One row of a table. `number` counts from 1."""

    number: int
    path: str
    label: str
    split: Split | None
    id: str
    """The sample's own id, or nothing."""


def read_table(data: bytes, extension: str, where: str) -> Iterator[Row]:
    """Yield the rows of a table. Raises `DropError`, naming `where` and the row, if it is none or lacks a column."""
    rows = {"csv": _csv_rows, "jsonl": _jsonl_rows, "parquet": _parquet_rows}[extension](data, where)
    path = label = ""
    for number, row in enumerate(rows, 1):
        if number == 1:
            path, label = _column(row, PATH, where), _column(row, LABEL, where)
        split = _text(row.get("split"))
        if split and split not in SPLIT_NAMES:
            raise DropError(f"{where}: row {number}: split {split!r}; allowed are {', '.join(SPLIT_NAMES)}")
        yield Row(number, _text(row.get(path)), _text(row.get(label)), SPLIT_NAMES.get(split), _text(row.get("id")))


def _column(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    found = [name for name in names if name in row]
    if len(found) != 1:
        raise DropError(
            f"{where}: needs one column called {' or '.join(names)}, and has {', '.join(map(str, row))}. If labels "
            "come from elsewhere, choose --label-from (in a task: data.label_from)"
        )
    return found[0]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DropError(f"{where}: not text in UTF-8") from error


def _csv_rows(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(io.StringIO(_decoded(data, where), newline=""), strict=True)
    except csv.Error as error:
        raise DropError(f"{where}: not a CSV table: {error}") from error


def _jsonl_rows(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_decoded(data, where).splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DropError(f"{where}: line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise DropError(f"{where}: line {number} is no JSON object")
            yield row


def _parquet_rows(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DropError(f"{where}: Parquet needs pyarrow: pip install 'retrain-classifiers[tables]'") from None
    try:
        table = parquet.ParquetFile(io.BytesIO(data))
        wanted = [name for name in table.schema_arrow.names if name in (*PATH, *LABEL, "split", "id")]
        for batch in table.iter_batches(columns=wanted):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DropError(f"{where}: not a Parquet table: {error}") from error
