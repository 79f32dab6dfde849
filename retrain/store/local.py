"""A store in a local folder, the default. It is safe for concurrent processes."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from retrain.errors import StoreError
from retrain.store.base import Conflict, Entry, Missing, check_key, confirm_write
from retrain.utils.files import durable_copy, temp_copy
from retrain.utils.text import is_key

MISPLACED = (errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a path that is not a folder, or that this user may not use."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, and of a user's full quota."""
PRIVATE = ".retrain"
"""Folder for the lock and for temporary files. No key begins with a dot, so no listing shows it."""


class LocalStore:
    """Objects as files under `root`. The first write creates this folder.

    A temporary file is written, flushed to disk and then renamed, so readers never see an object change. All writes
    that replace or remove an object hold the store's only lock. `create` needs no lock, because creating a hard link
    fails if the file exists. Temporary files of killed processes stay in `.retrain/` and do no harm.
    """

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.expanduser()
        except RuntimeError as error:
            raise StoreError(f"store: {root}: {error} Write the folder's absolute path.") from error
        self.url = str(root)

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the object's bytes and their SHA-256. Raises `Missing`."""
        with self._translate_errors(key), self.open(key) as file:
            data = file.read()
        return data, _version(data)

    def create(self, key: str, data: bytes) -> str:
        """Write a new object and return its version. Raises `Conflict` if the key has other bytes."""
        with self._translate_errors(key), self._staged(BytesIO(data)) as staged:
            try:
                os.link(staged, self._destination(key))
            except FileExistsError:
                return confirm_write(self, key, data)
        return _version(data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Write by compare-and-swap. Raises `Conflict` if the object has changed, and `Missing` if there is none."""
        with self._translate_errors(key), self._staged(BytesIO(data)) as staged, self._lock():
            current, found = self.read(key)
            if found == version:
                staged.replace(self._path(key))
            elif current != data:
                raise Conflict(f"{self.url}: another process wrote {key} first: run the command again")
        return _version(data)

    def write(self, key: str, data: bytes) -> None:
        """Write unconditionally."""
        self._put(key, BytesIO(data))

    def delete(self, key: str) -> None:
        """Remove the object. It is no error if the object is missing."""
        with self._translate_errors(key), self._lock():
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in order, reading one folder at a time."""
        with self._translate_errors(prefix):
            yield from self._walk("", prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below `prefix`, in order."""
        with self._translate_errors(prefix):
            names = sorted(name for name, *_ in _children(self.root / prefix) if name.endswith("/"))
        yield from filter(is_key, (name.rstrip("/") for name in names))

    def list_unusual(self, prefix: str) -> Iterator[Entry]:
        """Yield the broken symbolic links, and links to a folder that contains them. They have a path, but no bytes."""
        with self._translate_errors(prefix):
            yield from self._walk_broken(prefix.rpartition("/")[0], prefix)

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return `size` bytes of the object from `start` on. Raises `Missing`."""
        with self._translate_errors(key), self.open(key) as file:
            file.seek(start)
            return file.read(size)

    def upload(self, path: Path, key: str) -> None:
        """Copy the file at `path` into the store."""
        with self._translate_errors(key), path.open("rb") as source:
            self._put(key, source)

    def download(self, key: str, path: Path) -> None:
        """Copy the object to `path`. Raises `Missing`."""
        with self._translate_errors(key), self.open(key) as source, temp_copy(source, path.parent) as copy:
            copy.replace(path)

    def open(self, key: str) -> BinaryIO:
        """Open the object for reading. Raises `Missing`."""
        with self._translate_errors(key):
            try:
                return self._path(key).open("rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise Missing(f"{self.url}: there is no {key}.") from None

    def now(self) -> datetime:
        """Return the modification time of a file that is written now."""
        with self._translate_errors(PRIVATE), self._staged(BytesIO()) as staged:
            return datetime.fromtimestamp(staged.stat().st_mtime, UTC)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _destination(self, key: str) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _put(self, key: str, source: BinaryIO) -> None:
        with self._translate_errors(key), self._staged(source) as staged, self._lock():
            staged.replace(self._destination(key))

    @contextmanager
    def _staged(self, source: BinaryIO) -> Iterator[Path]:
        """Yield a copy of `source` on the store's file system, because only there renaming is atomic."""
        with durable_copy(source, self._private()) as copy:
            yield copy

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._private() / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
            yield

    def _private(self) -> Path:
        private = self.root / PRIVATE
        private.mkdir(parents=True, exist_ok=True)
        return private

    def _walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        for name, size, modified in sorted(_children(self.root / folder)):
            key = folder + name
            if name.endswith("/") and (key.startswith(prefix) or prefix.startswith(key)):
                yield from self._walk(key, prefix)
            elif is_key(key) and key.startswith(prefix):
                yield Entry(key, size, datetime.fromtimestamp(modified, UTC))

    def _walk_broken(self, folder: str, prefix: str) -> Iterator[Entry]:
        for entry in sorted(_scan(self.root / folder), key=lambda entry: entry.name):
            key = f"{folder}/{entry.name}".lstrip("/")
            if not _is_broken(entry):
                if entry.is_dir():
                    yield from self._walk_broken(key, prefix)
            elif key.startswith(prefix):
                yield Entry(key, 0, datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_mtime, UTC))

    @contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = ". Check the task's `store`, and your permissions for it" if error.errno in MISPLACED else ""
            advice = ". Free space there, then run the command again" if error.errno in FULL else advice
            raise StoreError(f"{self.url}: {key or 'listing'}: {error.strerror or error}{advice}") from error


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _children(folder: Path) -> list[tuple[str, int, float]]:
    """Return names, sizes and modification times. Names of folders end in a slash, because they must sort like keys."""
    children = []
    for entry in _scan(folder):
        if _is_broken(entry):
            continue
        with suppress(FileNotFoundError):  # deleted in the meantime
            found = entry.stat()
            children.append(
                (f"{entry.name}/", 0, 0.0) if entry.is_dir() else (entry.name, found.st_size, found.st_mtime)
            )
    return children


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link to nothing, to itself, or to a folder that contains the link."""
    if not entry.is_symlink():
        return False
    above = map(os.path.realpath, Path(entry.path).parents)
    return not os.path.exists(entry.path) or os.path.realpath(entry.path) in above


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries in any order. Return an empty list if the folder does not exist."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return list(entries)
    return []
