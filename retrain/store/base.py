"""What every stage asks of a store: whole objects, conditional writes, listing, streaming.

A key is a relative POSIX path (`cifar/ledger/r-1.json`). A version is an opaque string that changes whenever the
object's bytes do (S3's ETag; the content's digest in a folder).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from retrain.errors import StoreError


class Missing(StoreError):
    """There is no object under this key."""


class Conflict(StoreError):
    """Somebody else's write came first: the object is not in the state that the caller expected."""


class Entry(NamedTuple):
    """One object of a listing: its key, size in bytes, and version."""

    key: str
    size: int
    version: str


class Store(Protocol):
    """Objects under keys, each written whole or not at all.

    Every method raises `StoreError` (in a sentence that names the store) when the store cannot be reached or refuses
    the credentials.
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

        Raises `Conflict` if it has another version and other bytes than `data`, `Missing` if it is gone.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write unconditionally. For what only its one owner writes, or what is the same whoever writes it."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in the order of their keys."""

    def upload(self, path: Path, key: str) -> None:
        """Stream the file at `path` into the store; it is visible only when whole."""

    def download(self, key: str, path: Path) -> None:
        """Stream the object into `path`, which appears only when whole. Raises `Missing`."""

    def open(self, key: str) -> BinaryIO:
        """Open the object for sequential reading without holding it in memory. Raises `Missing`."""
