"""Read lists of images from folders, tables and standard input.

Parquet needs the extra `tables`.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO

from retrain.data.files import walk_folder
from retrain.data.images import EXTENSIONS
from retrain.data.litter import litter_kind
from retrain.data.tables import cell_text, read_records
from retrain.errors import UserError
from retrain.utils.text import is_address

STDIN = "-"
TABLES = (".csv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """An image to be predicted: its path, and its true class if that is known."""

    image: str
    label: str | None = None
    table: str | None = None
    """The table that lists the image, if there is one."""


class Columns(NamedTuple):
    """Names of a table's columns."""

    image: str = "image"
    label: str = "label"


COLUMNS = Columns()


def read_rows(sources: Iterable[str], columns: Columns = COLUMNS, labelled: bool = False) -> Iterator[Row]:
    """Return the images of the sources: folders, image files, tables (.csv, .jsonl, .parquet), or `-` for stdin.

    The label of an image is its folder's name, unless the image is listed in a table. Standard input has one path on
    each line. Before any image is returned, this raises `UserError` in these cases: a source is none of these, a folder
    cannot be read or has no images, no source has an image, or a table lacks the column of the paths or, if `labelled`,
    of the labels.
    """
    sources, folders = list(sources), dict[str, list[Path]]()
    for source in sources:
        if source == STDIN:
            continue
        if not os.path.exists(source):  # unlike Path.exists, False without permission
            missing = "no such file or folder, or no permission to read it"
            what = "not a path on this machine: download it first" if is_address(source) else missing
            raise UserError(f"{source}: {what}")
        if Path(source).is_dir():
            folders[source] = sorted(_images_in(Path(source)))
            if not folders[source]:
                raise UserError(f"{source}: no images in it ({', '.join(sorted(EXTENSIONS))})")
    rows = _rows(sources, folders, columns, labelled)
    if (first := next(rows, None)) is None:
        raise UserError(f"{', '.join(sources)}: no image is listed")
    return chain([first], rows)


def _rows(sources: Iterable[str], folders: Mapping[str, list[Path]], columns: Columns, labelled: bool) -> Iterator[Row]:
    """Yield the images of the sources. `folders` has the images of each source that is a folder."""
    for source in sources:
        path = Path(source)
        if source == STDIN:
            yield from (_label_by_folder(line.rstrip("\r\n")) for line in _stdin() if line.strip())
        elif source in folders:
            yield from (_label_by_folder(str(image)) for image in folders[source])
        elif path.suffix.lower() in TABLES:
            yield from _read_table(path, columns, labelled)
        else:
            yield _label_by_folder(source)


def _stdin() -> TextIO:
    """Return standard input. Paths may contain bytes that are not text in the locale's encoding."""
    if isinstance(sys.stdin, TextIOWrapper):  # a test may have replaced it
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _label_by_folder(image: str) -> Row:
    return Row(image, Path(os.path.abspath(image)).parent.name or None)


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield the paths of a folder's images, in no particular order. Raises `DropError` if a folder cannot be read."""
    for path, _ in walk_folder(folder):
        name = PurePosixPath(path.relative_to(folder))
        if path.suffix[1:].lower() in EXTENSIONS and not litter_kind(name) and path.is_file():
            yield path


def _read_table(path: Path, columns: Columns, labelled: bool) -> Iterator[Row]:
    for place, row in _read_records(path):
        where = f"{path}: {place}"
        if columns.image not in row:
            raise _missing_column(where, row, columns.image, "paths with --image-column")
        if labelled and columns.label not in row:
            raise _missing_column(where, row, columns.label, "true classes with --label-column")
        image = cell_text(row[columns.image], columns.image, where)
        if not image:
            raise UserError(f"{where}: no path in column {columns.image!r}")
        label = cell_text(row[columns.label], columns.label, where) if labelled else ""
        yield Row(image, label or None, str(path))


def _missing_column(where: str, row: dict[str, Any], column: str, option: str) -> UserError:
    has = ", ".join(map(str, row))
    return UserError(f"{where} has no column {column!r}; its columns are {has}. Pass the column of the {option}")


def _read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return read_records(data, path.suffix[1:].lower(), str(path))
