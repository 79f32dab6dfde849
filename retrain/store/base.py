"""The protocol of object stores: reads and conditional writes of complete objects, listing and streaming."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from uuid import uuid4

from retrain.errors import StoreError, UserError
from retrain.records import Record, parse_record
from retrain.utils.text import is_key


class Missing(StoreError):
    """No object has this key."""


class Conflict(StoreError):
    """Another process wrote the object first, so it is not in the state that the caller expected."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing: its key, its size in bytes, and the time of its last write by the store's clock."""

    key: str
    size: int
    modified: datetime | None = field(default=None, compare=False)


def check_key(key: str) -> str:
    """Return `key`. Raises `StoreError` if it cannot name an object."""
    if not is_key(key):
        raise StoreError(f"{key!r} is not a key: it must be a relative path without '..', and not begin with a dot.")
    return key


class ObjectStore(Protocol):
    """Objects under keys. Each is written completely or not at all.

    Every method raises `StoreError`, with a message that names the store, in three cases: `is_key` refuses the key, the
    store cannot be reached, or it refuses the credentials.
    """

    url: str
    """The store's address, in the form of a task file."""

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the object's bytes and version. Raises `Missing`."""

    def create(self, key: str, data: bytes) -> str:
        """Write a new object and return its version.

        Raises `Conflict` if the key already has other bytes. If it has the same bytes, the write counts as successful:
        it may be the retry of a request that succeeded, but whose reply was lost. The bytes of a claim
        (`claims.py`) must therefore name its owner.
        """

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Write `data` if the object still has `version` (compare-and-swap), and return the new version.

        Raises `Conflict` if the object has another version and other bytes than `data`. Raises `Missing` if there is
        none. Equal bytes count as successful for the same reason as in `create`. If only one of several writers may
        succeed, each must therefore write different bytes.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write unconditionally. Only for objects with a single writer, or with the same content from every writer."""

    def delete(self, key: str) -> None:
        """Remove the object. It is no error if the object is missing."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in the order of their keys (by code point)."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below `prefix` (it ends in a slash), in the order of their keys.

        The objects in the folders are not listed, so the time does not grow with their number.
        """

    def list_unusual(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects under `prefix` that `list` leaves out: broken links, and names that no path can have."""

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return `size` bytes of an object from `start` on, or fewer at its end. Raises `Missing`."""

    def upload(self, path: Path, key: str) -> None:
        """Stream the file at `path` into the store. The object becomes visible only when it is complete."""

    def download(self, key: str, path: Path) -> None:
        """Stream the object into `path`. The file appears only when it is complete. Raises `Missing`.

        The file is not flushed to disk, and an object that is fetched in parts is not checked. The caller must check
        the file's digest.
        """

    def open(self, key: str) -> BinaryIO:
        """Open the object for sequential reading without holding it in memory. Raises `Missing`."""

    def now(self) -> datetime:
        """Return the store's time, to the second."""


def confirm_write(store: ObjectStore, key: str, data: bytes) -> str:
    """Return the version of an object that already has these bytes, after a conditional write of them was refused.

    In this case an earlier request succeeded, and its reply was lost. Raises `Conflict` if the object has other bytes.
    """
    with suppress(Missing):
        current, version = store.read(key)
        if current == data:
            return version
    raise Conflict(f"{store.url}: another process wrote {key} first: run the command again")


def probe_conditional_writes(store: ObjectStore) -> None:
    """Check with a temporary object that the store obeys the conditions of `create` and `replace`.

    Raises `StoreError` if the store overwrites an object against a condition, or refuses a `replace` that it should
    accept.
    """
    key = f"probe-{uuid4().hex}"
    try:
        first = store.create(key, b"first")
        _must_conflict(store, "If-None-Match", lambda: store.create(key, b"second"))
        store.replace(key, b"second", first)
        _must_conflict(store, "If-Match", lambda: store.replace(key, b"third", first))
    finally:
        store.delete(key)


def _must_conflict(store: ObjectStore, condition: str, write: Callable[[], str]) -> None:
    try:
        write()
    except Conflict:
        return
    raise StoreError(
        f"{store.url}: the server ignores {condition}, so two runs could both become champion. Use a server that "
        "honours conditional writes, as AWS does."
    )


R = TypeVar("R", bound=Record)


def read_record(store: ObjectStore, key: str, kind: type[R], damaged: type[UserError] = StoreError) -> tuple[R, str]:
    """Return a record and its version.

    Raises `Missing`. If it cannot be parsed, raises `damaged` with the object's name.
    """
    data, version = store.read(key)
    return parse_record(kind, data, f"{store.url}/{key}", damaged), version
