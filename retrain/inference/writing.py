"""Write predictions as CSV, JSON lines or Parquet, to a file that appears only when it is complete, or to a stream."""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from retrain.errors import UserError
from retrain.inference.batch import Answer
from retrain.utils.extras import import_extra
from retrain.utils.parallel import in_chunks

Format = Literal["csv", "jsonl", "parquet"]
PARQUET_ROWS = 4096
"""Rows of a Parquet file that are written together."""


def format_of(output: Path) -> Format:
    """Return the format of a file, given by its extension. Raises `UserError` for any other extension."""
    for known in get_args(Format):
        if output.suffix == f".{known}":
            return known  # type: ignore[no-any-return]  # one of the literals
    raise UserError(f"--output {output}: must end in .csv, .jsonl or .parquet")


def write_file(answers: Iterable[Answer], output: Path, top: int) -> None:
    """Write answers to a file in the format of its name. Raises `UserError` for a format that cannot be written."""
    kind = format_of(output)
    with _temporary(output) as part:
        if kind == "parquet":
            _write_parquet(answers, part, top)
        else:
            with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                write_stream(answers, file, kind, top)


def write_stream(answers: Iterable[Answer], stream: TextIO, kind: Literal["csv", "jsonl"], top: int) -> None:
    """Write answers as text, each as soon as it is available. If the first answer raises an error, write nothing."""
    if kind == "jsonl":
        for answer in answers:
            stream.write(_escape_bytes(json.dumps(_document(answer), ensure_ascii=False)) + "\n")
        return
    rows = map(_row, answers)
    first = list(islice(rows, 1))
    writer = csv.DictWriter(stream, _columns(top), lineterminator="\n")
    writer.writeheader()
    writer.writerows(chain(first, rows))


def _write_parquet(answers: Iterable[Answer], path: Path, top: int) -> None:
    arrow = import_extra("pyarrow", "Writing Parquet")
    parquet = import_extra("pyarrow.parquet", "Writing Parquet")
    fields = [(name, arrow.float32() if name.startswith("probability") else arrow.string()) for name in _columns(top)]
    schema = arrow.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        for some in in_chunks(map(_row, answers), PARQUET_ROWS):
            for row in some:
                row |= {name: _escape_bytes(text) for name, text in row.items() if isinstance(text, str)}
            writer.write_table(arrow.Table.from_pylist(some, schema))


def _escape_bytes(text: str) -> str:
    """Replace the bytes of paths that are not UTF-8 by escapes such as \\udcff, because JSON and Parquet are UTF-8.

    In JSON, Python reads the original path from these escapes.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _columns(top: int) -> list[str]:
    ranks = [suffix for rank in range(1, top + 1) for suffix in (_name("class", rank), _name("probability", rank))]
    return ["image", *ranks, "error"]


def _name(column: str, rank: int) -> str:
    return column if rank == 1 else f"{column}_{rank}"


def _row(answer: Answer) -> dict[str, Any]:
    """Return an answer as one flat row: image, class, probability, class_2, probability_2, ..., error."""
    row: dict[str, Any] = {"image": answer.row.image, "error": answer.error}
    for rank, (label, probability) in enumerate(answer.top, 1):
        row |= {_name("class", rank): label, _name("probability", rank): round(probability, 6)}
    return row


def _document(answer: Answer) -> dict[str, Any]:
    if answer.error:
        return {"image": answer.row.image, "error": answer.error}
    top = [{"class": label, "probability": round(probability, 6)} for label, probability in answer.top]
    return {"image": answer.row.image, **top[0], "top": top}


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the folder of `output`. It replaces `output` at the end."""
    part = output.with_name(f".{output.name}.part")
    try:
        yield part
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
