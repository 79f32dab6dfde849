"""What every stage asks of a store: whole objects, conditional writes, listing, streaming.

A key is a relative POSIX path (`cifar/ledger/r-1.json`). A version is an opaque string that changes whenever the
object's bytes do (S3's ETag; the content's SHA-256 in a folder, where no clock or inode can repeat itself).
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from retrain.errors import StoreError


class Missing(StoreError):
    """There is no object under this key."""


class Conflict(StoreError):
    """Somebody else's write came first: the object is not in the state that the caller expected."""


class Entry(NamedTuple):
    """One object of a listing: its key, and its size in bytes."""

    key: str
    size: int


def is_key(key: str) -> bool:
    """Whether `key` can name an object: a relative path that stays inside the store and begins with no dot."""
    return not (key.startswith(".") or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")))


def check_key(key: str) -> str:
    """Return `key`. Raises `StoreError` if it cannot name an object."""
    if not is_key(key):
        raise StoreError(f"{key!r} is not a key: it must be a relative path without '..', and not begin with a dot.")
    return key


class Store(Protocol):
    """Objects under keys, each written whole or not at all.

    Every method raises `StoreError` (in a sentence that names the store) for a key that `is_key` refuses, and when
    the store cannot be reached or refuses the credentials.
    """

    url: str
    """Where the store is, as a task file writes it."""

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the object's bytes and version. Raises `Missing`."""

    def create(self, key: str, data: bytes) -> str:
        """Write a new object and return its version.

        Raises `Conflict` if the key holds other bytes already. Finding the very same bytes is success: it was an
        earlier attempt of ours whose reply was lost. A claim must therefore carry its owner's name in its bytes.
        """

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Compare-and-swap: write `data` if the object still has `version`; return the new version.

        Raises `Conflict` if it has another version and other bytes than `data`, `Missing` if there is none.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write unconditionally. For what only its one owner writes, or what is the same whoever writes it."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in the order of their keys (by code point)."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below `prefix`, which ends in a slash, in the order of their keys.

        What lies in them is not listed: this takes no longer however many objects there are.
        """

    def upload(self, path: Path, key: str) -> None:
        """Stream the file at `path` into the store; it is visible only when whole."""

    def download(self, key: str, path: Path) -> None:
        """Stream the object into `path`, which appears only when whole. Raises `Missing`.

        It is not flushed to disk, and where it was fetched in parts none of its bytes are checked: who downloads an
        object compares its digest.
        """

    def open(self, key: str) -> BinaryIO:
        """Open the object for sequential reading without holding it in memory. Raises `Missing`."""

    def now(self) -> datetime:
        """Return what time it is at the store, to the second."""


def settle(store: Store, key: str, data: bytes) -> str:
    """Return the version under which `data` lies there already, after a conditional write of it was refused.

    Then an earlier attempt of ours has landed and its reply was lost. Raises `Conflict` if anything else lies there.
    """
    with suppress(Missing):
        current, version = store.read(key)
        if current == data:
            return version
    raise Conflict(f"{store.url}: somebody else wrote {key} first.")
