"""The files of a folder, of a tar or below a prefix of a store. Nothing is extracted and no link is followed."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from retrain.data.tars import members, plain_name
from retrain.errors import DropError
from retrain.store.base import Store


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder below a root: a folder, a tar, a prefix of a store."""

    root: str
    name: PurePosixPath
    is_folder: bool
    size: int
    read: Callable[[], bytes]
    """Returns the file's bytes."""

    def __str__(self) -> str:
        return f"{self.root}: {self.name}"


def list_folder(root: Path) -> Iterator[Entry]:
    """Yield every file and folder below `root`, in no particular order.

    Raises `DropError` at a link, a device or anything else that is neither, and where a folder cannot be read.
    """
    for folder, subfolders, files in os.walk(root, onerror=_unreadable):
        for path in (Path(folder, name) for name in (*subfolders, *files)):
            found = path.lstat()
            is_folder = stat.S_ISDIR(found.st_mode)
            if not (stat.S_ISREG(found.st_mode) or is_folder):
                raise DropError(f"{path}: neither a file nor a folder; links are not followed")
            name = plain_name(path.relative_to(root).as_posix(), str(root))
            yield Entry(str(root), name, is_folder, found.st_size, path.read_bytes)


def list_tar(path: Path) -> Iterator[Entry]:
    """Yield every file and folder of an uncompressed tar, in its order. Raises `DropError` as `members` does."""
    try:
        with path.open("rb") as stream:
            for member in members(stream, str(path)):
                name = PurePosixPath(member.name)
                if name.parts:
                    read = partial(_read_part, path, member.offset_data, member.size)
                    yield Entry(str(path), name, member.isdir(), member.size, read)
    except OSError as error:
        raise DropError(f"{path}: {error.strerror}") from error


def list_store(store: Store, prefix: str) -> Iterator[Entry]:
    """Yield every object below a prefix, which ends in a slash, as a file."""
    root = f"{store.url}/{prefix}".rstrip("/")
    for key, size in store.list(prefix):
        yield Entry(root, plain_name(key.removeprefix(prefix), root), False, size, partial(_read_object, store, key))


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _read_object(store: Store, key: str) -> bytes:
    return store.read(key)[0]


def _unreadable(error: OSError) -> NoReturn:
    raise DropError(f"{error.filename}: {error.strerror}") from error
