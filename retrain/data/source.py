"""Read labelled images from a folder, a tar or a prefix of a store. Nothing is extracted and no link is followed."""

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NoReturn, get_args
from urllib.parse import quote

from retrain.config import Split
from retrain.data.images import EXTENSIONS
from retrain.data.tars import MAX_FILE, plain_name, read_members
from retrain.errors import DropError
from retrain.records.drop import clean_class_name
from retrain.store.base import ObjectStore


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file or a folder below a root: a folder, a tar, a prefix of a store."""

    root: str
    name: PurePosixPath
    is_folder: bool
    size: int
    read: Callable[[], bytes]
    """Returns the file's bytes."""

    def __str__(self) -> str:
        return f"{self.root}: {self.name}"


def list_folder(root: Path) -> Iterator[SourceFile]:
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
            yield SourceFile(str(root), name, is_folder, found.st_size, path.read_bytes)


def list_tar(path: Path) -> Iterator[SourceFile]:
    """Yield every file and folder of an uncompressed tar, in its order. Raises `DropError` as `read_members` does."""
    try:
        with path.open("rb") as stream:
            for member in read_members(stream, str(path)):
                name = PurePosixPath(member.name)
                if name.parts:
                    read = partial(_read_part, path, member.offset_data, member.size)
                    yield SourceFile(str(path), name, member.isdir(), member.size, read)
    except OSError as error:
        raise DropError(f"{path}: {error.strerror}") from error


def list_store(store: ObjectStore, prefix: str) -> Iterator[SourceFile]:
    """Yield every object below a prefix, which ends in a slash, as a file."""
    root = f"{store.url}/{prefix}".rstrip("/")
    for key, size in store.list(prefix):
        yield SourceFile(
            root, plain_name(key.removeprefix(prefix), root), False, size, partial(_read_object, store, key)
        )


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _read_object(store: ObjectStore, key: str) -> bytes:
    return store.read(key)[0]


def _unreadable(error: OSError) -> NoReturn:
    raise DropError(f"{error.filename}: {error.strerror}") from error


SPLITS: tuple[Split, ...] = get_args(Split)
SHAPE = f"class/name.{{{','.join(sorted(EXTENSIONS))}}}"
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image of a source; `split` is None where the source has no splits."""

    split: Split | None
    class_name: str
    stem: str
    extension: str
    """In lower case, without the dot."""
    entry: SourceFile

    @property
    def key(self) -> str:
        """`class/stem` in letters that WebDataset leaves alone: a dot would start the extension, `__x__` be skipped."""
        return f"{_escape(self.class_name)}/{_escape(self.stem)}"

    @property
    def rank(self) -> tuple[int, str, str]:
        """Its place in the source: by split (train, val, test), class and name."""
        return SPLITS.index(self.split or "train"), self.class_name, self.stem


def read_source(source: Path) -> tuple[Sample, ...]:
    """Return a source's samples, sorted by split (train, val, test), class and name.

    A source is a folder or a tar of `class/name.png`, with or without `train/ val/ test/` above the classes, or a
    folder of such tars, each named after its split: `train.tar`, `test-0.tar`. Raises `DropError` if there is no such
    path or nothing in it, and at whatever is not a labelled image: stray files, empty folders, links, two images of
    one class with the same name.
    """
    if not source.exists():
        raise DropError(f"{source}: no such file or folder")
    return _arranged(_samples(source), str(source))


def read_entries(entries: Iterable[SourceFile], root: str) -> tuple[Sample, ...]:
    """Return the samples of a tree of images of which these are the files. Raises `DropError` as `read_source`."""
    return _arranged(_labelled(entries, None), root)


def _arranged(found: Iterable[Sample], root: str) -> tuple[Sample, ...]:
    samples = sorted(found, key=lambda sample: sample.rank)
    if not samples:
        raise DropError(f"{root}: no images in it; expected {SHAPE}")
    if len({sample.split is None for sample in samples}) > 1:
        raise DropError(f"{root}: some images lie below {', '.join(SPLITS)}, and others beside them")
    for first, second in pairwise(samples):
        if first.rank == second.rank:
            raise DropError(f"{second.entry}: duplicate key {second.key}: {first.entry} has the same class and name")
    return tuple(samples)


def _samples(source: Path) -> Iterator[Sample]:
    if source.is_file():
        yield from _labelled(list_tar(source), None)
    elif tars := sorted(source.glob("*.tar")):
        for tar in tars:
            yield from _labelled(list_tar(tar), split_of_tar(tar))
    else:
        yield from _labelled(list_folder(source), None)


def split_of_tar(path: Path) -> Split:
    """Return the split that a tar is named after. Raises `DropError` if it is none."""
    split = _split_name(path.stem.partition("-")[0])
    if split is None:
        raise DropError(f"{path}: tars in a folder are named after their split: train.tar, val.tar, test-0.tar, ...")
    return split


def _labelled(entries: Iterable[SourceFile], split: Split | None) -> Iterator[Sample]:
    folders: dict[PurePosixPath, SourceFile] = {}
    filled: set[PurePosixPath] = set()
    for entry in entries:
        if entry.is_folder:
            folders[entry.name] = entry
        elif not is_litter(entry.name.name):
            filled.update(entry.name.parents)
            yield _sample(entry, split)
    for name in sorted(folders.keys() - filled):
        raise DropError(f"{folders[name]}: an empty folder; every class needs images")


def is_litter(name: str) -> bool:
    """Say whether a desktop has left a file there: macOS (._1.jpg beside 1.jpg, .DS_Store) or Windows."""
    return name.startswith("._") or name in LITTER


def _sample(entry: SourceFile, split: Split | None) -> Sample:
    parts = entry.name.parts
    if split is None and len(parts) == 3 and (above := _split_name(parts[0])):
        split, parts = above, parts[1:]
    extension = entry.name.suffix[1:].lower()
    if len(parts) != 2 or extension not in EXTENSIONS:
        raise DropError(f"{entry}: not an image of a class; expected {SHAPE}")
    if entry.size > MAX_FILE:
        raise DropError(f"{entry}: {entry.size:,} bytes, where at most {MAX_FILE:,} are allowed")
    try:
        return Sample(
            split, clean_class_name(parts[0]), unicodedata.normalize("NFC", entry.name.stem), extension, entry
        )
    except DropError as error:
        raise DropError(f"{entry}: {error}") from error


def _split_name(text: str) -> Split | None:
    return next((split for split in SPLITS if split == text), None)


def _escape(text: str) -> str:
    escaped = quote(text, safe="").replace(".", "%2E")
    return "%5F" + escaped[1:] if escaped.startswith("_") else escaped
