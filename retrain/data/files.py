"""List the files of a source: a folder, an archive, or a prefix of a store.

Nothing is extracted. Links are not followed.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from retrain.config import Split
from retrain.data.archives import is_archive, open_archive
from retrain.data.litter import litter_kind
from retrain.data.tars import HashingReader, plain_name, read_members
from retrain.errors import DropError
from retrain.store.base import ObjectStore
from retrain.utils.text import is_key

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of folders and archives that contain a split, as in Hugging Face's `imagefolder`."""

LABEL_BYTES = 1024
"""Largest size, in bytes, of a label file that is read while its tar is listed. Larger files are read when they are
needed. Reading a label early saves a request to the store."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file or a folder of a source. Its root is a folder, an archive or a prefix in a store."""

    root: str
    name: PurePosixPath
    is_folder: bool
    size: int
    read: Callable[[], bytes]
    """Function that returns the file's bytes."""
    split: Split | None = None
    """The split that the file's archive is named after."""
    archive: str = ""
    """Name of the file's archive, if the source also has other files."""
    problem: str = ""
    """The reason why the file cannot be read. Empty if there is none."""

    def __str__(self) -> str:
        return f"{self.root}: {self.name}"

    @property
    def place(self) -> str:
        """Return the file's name within the source. It starts with the archive's name if there is one."""
        return f"{self.archive}/{self.name}" if self.archive else str(self.name)


def split_called(name: str) -> Split | None:
    """Return the split that has this name, in upper or lower case. Return None if there is none."""
    return SPLIT_NAMES.get(name.lower())


def walk_folder(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the path and the status of every file and folder below `root`, sorted by name within each folder.

    Messages then name the same first files on every machine. Raises `DropError` if a folder cannot be read, unless it
    is litter.
    """

    def refuse(error: OSError) -> None:
        if litter_kind(PurePosixPath(Path(error.filename).relative_to(root))) is None:
            raise DropError(f"{error.filename}: cannot be read: {error.strerror}") from error

    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders.sort()
        for path in (Path(folder, name) for name in (*subfolders, *sorted(files))):
            try:
                found = path.lstat()
            except OSError as error:  # the folder's entries may be listed, but not opened
                refuse(error)
            else:
                yield path, found


def list_folder(root: Path) -> Iterator[SourceFile]:
    """Yield every file and folder below `root`, sorted by name within each folder.

    Raises `DropError` if a folder cannot be read, or if an entry is a link, a device or another special file.
    """
    for path, found in walk_folder(root):
        name = plain_name(path.relative_to(root).as_posix(), str(root))
        is_folder = stat.S_ISDIR(found.st_mode)
        if not (stat.S_ISREG(found.st_mode) or is_folder or litter_kind(name)):
            raise DropError(f"{path}: a link or a special file; replace it by a regular file, or remove it")
        yield SourceFile(str(root), name, is_folder, found.st_size, path.read_bytes)


def list_archive(path: Path) -> Iterator[SourceFile]:
    """Yield every file and folder of a tar, a gzipped tar or a zip. Raises `DropError` if it is damaged or hostile."""
    try:
        with path.open("rb") as stream:
            if path.suffix.lower() == ".tar":
                yield from _list_tar(stream, str(path), partial(_read_part, path))
            else:
                yield from _list_packed(stream, str(path))
    except OSError as error:
        raise DropError(f"{path}: {error.strerror}") from error


def list_store(store: ObjectStore, prefix: str) -> Iterator[SourceFile]:
    """Yield every object below a prefix as a file. The prefix ends in a slash.

    An object whose key is not a valid path has a `problem`, unless it is an empty object that marks a folder. Keys of
    files that were uploaded from a folder are always valid.
    """
    root = f"{store.url}/{prefix}".rstrip("/")
    for entry in store.list(prefix):
        name = plain_name(entry.key.removeprefix(prefix), root)
        yield SourceFile(root, name, False, entry.size, partial(_read_object, store, entry.key))
    for entry in store.list_unusual(prefix):
        unusual = entry.key.removeprefix(prefix)
        marks_folder = entry.key.endswith("/") and not entry.size
        problem = (
            f"its key {unusual!r} is not a valid path (an empty part, `.`, `..`, a leading dot or a NUL byte); "
            "upload it under another key"
        )
        if is_key(entry.key):
            problem = "it is a link that leads nowhere; upload the file itself"
        called = PurePosixPath(f"{unusual.rstrip('/')}_$folder$") if marks_folder else PurePosixPath(unusual or "/")
        yield SourceFile(root, called, False, entry.size, bytes, problem="" if marks_folder else problem)


def list_stored_archive(store: ObjectStore, prefix: str, archive: SourceFile) -> Iterator[SourceFile]:
    """Yield the files and folders of an archive in a store.

    A tar is read in place, by requests for byte ranges. Other archives are downloaded first.
    """
    key, where = f"{prefix}{archive.name}", f"{archive.root}/{archive.name}"
    with store.open(key) as stream:
        if archive.name.suffix.lower() == ".tar":
            yield from _list_tar(HashingReader(stream), where, partial(store.read_range, key))
        else:
            yield from _list_packed(stream, where)


def expand_archives(
    files: Iterable[SourceFile], list_files: Callable[[SourceFile], Iterable[SourceFile]]
) -> Iterator[SourceFile]:
    """Yield the files of a source. For an archive, yield the files in it.

    An archive must be named after its split, be in a folder of that name, or be the source's only file. Any other
    archive has a `problem`.
    """
    files = list(files)
    alone = sum(not file.is_folder and litter_kind(file.name) is None for file in files) == 1
    for file in files:
        if file.is_folder or not is_archive(file.name) or litter_kind(file.name):
            yield file
            continue
        split = split_of_archive(file.name)
        if split is None and not alone:
            yield replace(file, problem=UNNAMED)
            continue
        within = "" if alone else str(file.name)
        yield from (replace(one, split=split, archive=within) for one in list_files(file))


UNNAMED = (
    "the archive's name does not state its split: rename it (train.tar, val.tar, test-0.zip, ...), "
    "or move it into a folder named train, val or test"
)


def split_of_archive(name: PurePosixPath) -> Split | None:
    """Return the split that an archive, or the folder that it lies in, is named after."""
    first = name.parts[0]
    called = re.match(r"[A-Za-z]+(?=[-_.])", first) if len(name.parts) == 1 else re.fullmatch(r"[A-Za-z]+", first)
    return split_called(called[0]) if called and len(name.parts) <= 2 else None


def _list_tar(stream: BinaryIO | HashingReader, where: str, read: Callable[[int, int], bytes]) -> Iterator[SourceFile]:
    """Yield the members of a tar in their order. `read(offset, size)` returns bytes of the tar.

    Each label is read while the tar is listed. Reading it later would take a request to the store for each label.
    """
    for member in read_members(stream, where):
        name = PurePosixPath(member.name)
        if not name.parts:
            continue
        content = partial(read, member.offset_data, member.size)
        if member.isreg() and name.suffix in (".cls", ".txt") and member.size <= LABEL_BYTES:
            stream.seek(member.offset_data)
            content = partial(bytes, stream.read(member.size))
        yield SourceFile(where, name, member.isdir(), member.size, content)


def _list_packed(stream: BinaryIO, where: str) -> Iterator[SourceFile]:
    for name, is_folder, size, read in open_archive(stream, where):
        yield SourceFile(where, name, is_folder, size, read)


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _read_object(store: ObjectStore, key: str) -> bytes:
    return store.read(key)[0]
