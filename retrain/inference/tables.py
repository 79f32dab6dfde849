"""Read lists of images from folders, tables and standard input.

Parquet needs the extra `tables`.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from retrain.data.images import EXTENSIONS
from retrain.data.litter import litter_kind
from retrain.data.tables import read_records
from retrain.errors import UserError

STDIN = "-"
TABLES = (".csv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """An image to be predicted: its path, and its true class where that is known."""

    image: str
    label: str | None = None


class Columns(NamedTuple):
    """Names of a table's columns."""

    image: str = "image"
    label: str = "label"


COLUMNS = Columns()


def read_rows(sources: Iterable[str], columns: Columns = COLUMNS) -> Iterator[Row]:
    """Return the images that sources name: folders, image files, tables (.csv, .jsonl, .parquet), or `-` for stdin.

    An image in a folder has the folder's name as its label. Standard input holds a path a line. Raises `UserError` if a
    source is none of these.
    """
    sources = list(sources)
    for source in sources:
        if source != STDIN and not Path(source).exists():
            raise UserError(f"{source}: no such file or folder")
    return _rows(sources, columns)


def _rows(sources: Iterable[str], columns: Columns) -> Iterator[Row]:
    for source in sources:
        path = Path(source)
        if source == STDIN:
            yield from (Row(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
        elif path.is_dir():
            yield from _read_folder(path)
        elif path.suffix in TABLES:
            yield from _read_table(path, columns)
        else:
            yield Row(source)


def _read_folder(folder: Path) -> Iterator[Row]:
    found = False
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder))
        if path.suffix[1:].lower() in EXTENSIONS and not litter_kind(name) and path.is_file():
            found = True
            yield Row(str(path), path.parent.name)
    if not found:
        raise UserError(f"{folder}: no images in it ({', '.join(sorted(EXTENSIONS))})")


def _read_table(path: Path, columns: Columns) -> Iterator[Row]:
    for number, row in enumerate(_read_records(path), 1):
        image = row.get(columns.image)
        if not image:
            raise UserError(
                f"{path}: row {number} has no column {columns.image!r}; it has {', '.join(map(str, row))}. "
                "Name the column of the paths with --image-column"
            )
        label = row.get(columns.label)
        yield Row(str(image), None if label in (None, "") else str(label))


def _read_records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return read_records(data, path.suffix[1:], str(path))
