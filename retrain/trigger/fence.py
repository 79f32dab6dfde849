"""A store whose writes stop with the lease: a holder that froze and wakes too late changes nothing any more."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from retrain.store.base import Entry, Store
from retrain.trigger.lease import Lease


class Fenced:
    """`store`, with every write refused (`LeaseLost`) once the lease is lost. Reads pass."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self._lease = store, lease
        self.url = store.url

    def read(self, key: str) -> tuple[bytes, str]:
        """As the store's."""
        return self._store.read(key)

    def create(self, key: str, data: bytes) -> str:
        """As the store's, while the lease is held."""
        self._lease.check()
        return self._store.create(key, data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        """As the store's, while the lease is held."""
        self._lease.check()
        return self._store.replace(key, data, version)

    def write(self, key: str, data: bytes) -> None:
        """As the store's, while the lease is held."""
        self._lease.check()
        self._store.write(key, data)

    def delete(self, key: str) -> None:
        """As the store's, while the lease is held."""
        self._lease.check()
        self._store.delete(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the store's."""
        return self._store.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        """As the store's."""
        return self._store.folders(prefix)

    def upload(self, path: Path, key: str) -> None:
        """As the store's, while the lease is held."""
        self._lease.check()
        self._store.upload(path, key)

    def download(self, key: str, path: Path) -> None:
        """As the store's."""
        self._store.download(key, path)

    def open(self, key: str) -> BinaryIO:
        """As the store's."""
        return self._store.open(key)

    def now(self) -> datetime:
        """Return the store's time."""
        return self._store.now()
