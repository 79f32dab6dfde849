"""The protocol of object stores: whole objects, conditional writes, listing and streaming."""

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
    """Another write came first: the object is not in the state that the caller expected."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing: its key, its size in bytes, and when the store says that it was written."""

    key: str
    size: int
    modified: datetime | None = field(default=None, compare=False)


def check_key(key: str) -> str:
    """Return `key`. Raises `StoreError` if it cannot name an object."""
    if not is_key(key):
        raise StoreError(f"{key!r} is not a key: it must be a relative path without '..', and not begin with a dot.")
    return key


class ObjectStore(Protocol):
    """Objects under keys, each written whole or not at all.

    Every method raises `StoreError` (in a sentence that names the store) for a key that `is_key` refuses, and when
    the store cannot be reached or refuses the credentials.
    """

    url: str
    """The store's address, as a task file writes it."""

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
        """Write unconditionally. For objects with a single writer, or with the same content from every writer."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in the order of their keys (by code point)."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below `prefix`, which ends in a slash, in the order of their keys.

        What lies in them is not listed: this takes no longer however many objects there are.
        """

    def list_unusual(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects under `prefix` whose keys `list` passes over, since no path can have their names."""

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return this number of bytes of an object from `start` on, or fewer at its end. Raises `Missing`."""

    def upload(self, path: Path, key: str) -> None:
        """Stream the file at `path` into the store; it is visible only when whole."""

    def download(self, key: str, path: Path) -> None:
        """Stream the object into `path`, which appears only when whole. Raises `Missing`.

        It is not flushed to disk, and where it was fetched in parts none of its bytes are checked: the caller must
        compare its digest.
        """

    def open(self, key: str) -> BinaryIO:
        """Open the object for sequential reading without holding it in memory. Raises `Missing`."""

    def now(self) -> datetime:
        """Return the store's time, to the second."""


def confirm_write(store: ObjectStore, key: str, data: bytes) -> str:
    """Return the version of an object that has these bytes already, after a conditional write of them was refused.

    Then an earlier attempt of ours has landed and its reply was lost. Raises `Conflict` if anything else lies there.
    """
    with suppress(Missing):
        current, version = store.read(key)
        if current == data:
            return version
    raise Conflict(f"{store.url}: another process wrote {key} first.")


def probe_conditional_writes(store: ObjectStore) -> None:
    """Try both conditions on a passing object. Meant for once, before a champion is swapped.

    Raises `StoreError` if the store overwrites what `create` or `replace` must not touch, or refuses a `replace` that
    it should accept.
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
    """Return a record and its version. Raises `Missing`, and `damaged`, naming the object, if it is no such record."""
    data, version = store.read(key)
    return parse_record(kind, data, f"{store.url}/{key}", damaged), version
