"""A bounded cache of shards on this machine's disk, shared by all processes of the machine. Shards are prefetched."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from retrain.errors import DamagedDrop, StoreError, UserError
from retrain.records import Shard
from retrain.store.base import ObjectStore
from retrain.store.local import FULL

WHOLE, FETCHING = ".tar", ".part"
POLL_SECONDS = 0.02


class ShardRef(NamedTuple):
    """A shard, its drop's id, and its key in the store."""

    drop: str
    key: str
    shard: Shard


class ShardCache:
    """A folder of shards in files `<sha256>.tar`, of at most `limit` bytes.

    While a shard is fetched, a sparse file `<sha256>.part` of the same size reserves room.
    """

    def __init__(self, store: ObjectStore, folder: Path, limit: int) -> None:
        self.store, self.folder, self.limit = store, folder, limit
        self._checked: set[str] = set()

    def path(self, ref: ShardRef) -> Path:
        """Return the path of a shard. The file is not removed while a reader has it open."""
        return self.folder / f"{ref.shard.sha256}{WHOLE}"

    def hold(self, ref: ShardRef) -> BufferedReader:
        """Return the shard's open file. Fetch it first if it is missing. It is not removed while it is open.

        Raises `DamagedDrop` if the stored shard differs from the manifest, and `UserError` if there is no room.
        """
        while True:
            with suppress(FileNotFoundError):
                file = self.path(ref).open("rb")
                flock(file, LOCK_SH)
                if os.fstat(file.fileno()).st_nlink and self._is_intact(file, ref):
                    os.utime(file.fileno())
                    return file
                file.close()
            self.fetch(ref)

    def fetch(self, ref: ShardRef) -> None:
        """Download a shard, unless it is in the cache or another process has just downloaded it.

        In both cases it now counts as used. Raises the errors of `hold`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / f"{ref.shard.sha256}{FETCHING}") as part:
            with suppress(FileNotFoundError):
                os.utime(self.path(ref))
                return
            self._keep_room(part, ref.shard.size)
            with _explain_full_disk(self.folder):
                self.store.download(ref.key, self.path(ref))
            with suppress(FileNotFoundError), self.path(ref).open("rb") as file:  # another process may have removed it
                if not self._is_intact(file, ref):
                    raise DamagedDrop(
                        ref.drop,
                        f"{self.store.url}/{ref.key}: its SHA-256 differs from the manifest's. Restore the file from a "
                        "copy of the store",
                    )

    def _is_intact(self, file: BufferedReader, ref: ShardRef) -> bool:
        """Return whether a file matches the manifest.

        Each process checks a file once. A file that does not match is removed.
        """
        if ref.shard.sha256 in self._checked:
            return True
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        if sha256 != ref.shard.sha256:
            self.path(ref).unlink(missing_ok=True)
            return False
        self._checked.add(ref.shard.sha256)
        return True

    def _keep_room(self, part: BinaryIO, size: int) -> None:
        """Reserve room for a shard with a sparse file of the same size.

        If there is no room, this waits while other shards are being fetched, because they can be removed later. Raises
        `UserError` if all shards are in use.
        """
        part.truncate(0)  # a killed process may have left its reservation, and waiting for it would never end
        while True:
            with (self.folder / "room.lock").open("ab") as room:
                flock(room, LOCK_EX)
                used = self._make_room(size)
                if used + size <= self.limit:
                    part.truncate(size)
                    return
                if not any(path.suffix == FETCHING and status.st_size for path, status in self._files()):
                    raise UserError(
                        f"{self.folder}: no room for {size:,} bytes: {used:,} are in use, and the limit, "
                        f"data.stream.cache, is {self.limit:,}. Raise the limit, or run fewer trainings on this machine"
                    )
            time.sleep(POLL_SECONDS)

    def _make_room(self, size: int) -> int:
        """Remove shards without a reader until there is room, least recently used first. Return the bytes used."""
        files = sorted((status.st_mtime, path, status.st_size) for path, status in self._files())
        used = sum(file_size for _, _, file_size in files)
        for _, path, file_size in files:
            if used + size <= self.limit:
                break
            used -= file_size if _remove(path) else 0
        return used

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the files that count against the limit. A shard with a `.tar` and a `.part` file counts once.

        Its download may end meanwhile: the `.tar` file appears, and the `.part` file is removed. The last look at the
        `.tar` file then finds it.
        """
        for digest in {path.stem for path in self.folder.iterdir() if path.suffix in (WHOLE, FETCHING)}:
            for suffix in (WHOLE, FETCHING, WHOLE):
                path = self.folder / f"{digest}{suffix}"
                with suppress(FileNotFoundError):
                    yield path, path.stat()
                    break


@contextmanager
def _explain_full_disk(folder: Path) -> Iterator[None]:
    """Name the cache in the error of a download for which its disk has no space. The store's error names the store."""
    try:
        yield
    except StoreError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise StoreError(
                f"{folder}: {error.__cause__.strerror}. Free space there, set $RETRAIN_CACHE to another folder, or "
                "reduce data.stream.cache. Then run the command again"
            ) from error
        raise


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Hold an exclusive lock on a file within the context, and then remove the file."""
    while True:
        with path.open("ab") as file:
            flock(file, LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else its previous holder has just removed it
                try:
                    yield file
                finally:
                    path.unlink(missing_ok=True)
                return


def _remove(path: Path) -> bool:
    """Remove a file unless a process has locked it. Return whether it no longer exists."""
    with suppress(BlockingIOError):
        with suppress(FileNotFoundError), path.open("rb") as file:
            flock(file, LOCK_EX | LOCK_NB)
            path.unlink()
        return True
    return False


SHARDS_AHEAD = 4
"""Number of shards that are prefetched after the last shard that is needed now."""


class ReadAhead:
    """A context manager that prefetches shards until it is closed.

    It ignores errors, because `ShardCache.hold` raises them again when the shard is needed.
    """

    def __init__(self, cache: ShardCache) -> None:
        self.cache = cache
        self._threads = ThreadPoolExecutor(SHARDS_AHEAD, "read-ahead")
        self._route: Sequence[ShardRef] = ()
        self._begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the fetches in progress, and cancel the others."""
        self._threads.shutdown(cancel_futures=True)

    def follow(self, route: Sequence[ShardRef]) -> None:
        """Fetch shards in this order from now on."""
        self._route, self._begun = route, 0

    def reach(self, position: int) -> None:
        """Fetch the shards up to a position that is needed now, and `SHARDS_AHEAD` more, in the order of `follow`.

        Shards that were prefetched earlier and are not needed yet count as used again. Otherwise the cache would evict
        them before shards that were used in the meantime and are no longer needed.
        """
        until = min(position + 1 + SHARDS_AHEAD, len(self._route))
        if until > self._begun:
            for ref in self._route[min(self._begun, position + 1) : until]:
                self._threads.submit(self.cache.fetch, ref)
            self._begun = until
