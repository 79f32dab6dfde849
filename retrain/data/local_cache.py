"""The cache folder that all tasks on this machine share: file names, locks, and the removal of unused files.

This module does not import numpy, because `retrain gc` needs only names, sizes and times.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import NamedTuple, Self
from weakref import finalize

from retrain.config.frame import Size, as_frame
from retrain.errors import UserError
from retrain.records import Drop
from retrain.utils.files import TEMPORARY

DECODED = re.compile(r"([0-9a-f]{64}-\d[\w-]*?)(?:-(?:train|val|test))?\.(?:safetensors|val|test)")
"""Names of files that are made from a drop's images. The group is the result of `decoded_name`."""
SHARD = re.compile(r"([0-9a-f]{64})\.(?:tar|part)")
"""Names of files in `shards/`. The group is the shard's digest."""
WRITING = "writing-"
"""Prefix of folders for incomplete files. A killed process leaves such folders."""


class CachedFile(NamedTuple):
    """A file, or a folder of incomplete files, that `retrain` wrote into the cache."""

    path: Path
    name: str
    """The result of `decoded_name`, or the shard's digest. Empty for incomplete files."""
    size: int
    """Number of bytes on the disk."""
    used_at: float
    """Time at which the file was last read or written, in seconds since 1970."""


def cache_folder() -> Path:
    """Return the folder of decoded drops: $RETRAIN_CACHE, or retrain/ in the user's cache folder."""
    if chosen := os.environ.get("RETRAIN_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrain"
    except RuntimeError as error:
        raise UserError("no home directory for the cache of decoded drops: set $RETRAIN_CACHE to a folder") from error


def decoded_name(drop: Drop, image_size: Size) -> str:
    """Return the prefix of the names of all files that are made from a drop's images at this size."""
    return f"{drop.decoded_digest}-{as_frame(image_size)}"


class CacheHold:
    """A shared lock on the cache folder. While a process has this lock, `retrain gc` removes nothing from the folder.

    The lock is released by `close`, or with the last reference to it. A folder that cannot be opened is not locked.
    """

    def __init__(self, folder: Path) -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            self._release = finalize(self, os.close, descriptor)
            flock(descriptor, LOCK_SH)

    def close(self) -> None:
        """Release the lock."""
        if hasattr(self, "_release"):
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def lock_unused(folder: Path) -> Iterator[str]:
    """Lock the cache folder against new readers. Yield an empty string, or the reason why it cannot be locked."""
    descriptor = os.open(folder, os.O_RDONLY)
    obstacle = ""
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        obstacle = "a process on this machine is reading it"
    except OSError as error:  # some network file systems cannot lock folders
        obstacle = f"it cannot be locked: {error.strerror}"
    try:
        yield obstacle
    finally:
        os.close(descriptor)


def mark_used(path: Path) -> None:
    """Set a file's time of access to now. Many file systems do not record it, or record it once a day."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def find_unused(folder: Path, needed: Collection[str], since: datetime) -> list[CachedFile]:
    """Return the files that were neither read nor written after `since`, and whose names are not in `needed`.

    Files that `retrain` did not write are left unchanged.
    """
    return [file for file in _cached_files(folder) if file.name not in needed and file.used_at < since.timestamp()]


def remove_file(file: CachedFile) -> bool:
    """Remove a file or folder, and return whether this succeeded. A shard in use or another user's file stays."""
    try:
        if file.path.is_dir():
            shutil.rmtree(file.path)
        else:
            with file.path.open("rb") as opened:
                flock(opened, LOCK_EX | LOCK_NB)
                file.path.unlink()
    except OSError:
        return False
    return True


def _cached_files(folder: Path) -> Iterator[CachedFile]:
    for pattern, place in ((DECODED, folder), (SHARD, folder / "shards")):
        for path in sorted(place.glob("*")):
            with suppress(OSError):  # another process has just removed it
                if found := pattern.fullmatch(path.name):
                    yield _describe(found[1], path, [path])
                elif TEMPORARY.fullmatch(path.name) and place != folder:  # an incomplete download
                    yield _describe("", path, [path])
                elif path.name.startswith(WRITING) and place == folder and path.is_dir():
                    yield _describe("", path, list(path.iterdir()))


def _describe(name: str, path: Path, files: Collection[Path]) -> CachedFile:
    found = [file.stat() for file in files]
    times = [time for one in found for time in (one.st_atime, one.st_mtime)]
    # A folder's own time of access changes whenever it is listed.
    return CachedFile(path, name, 512 * sum(one.st_blocks for one in found), max([path.stat().st_mtime, *times]))
