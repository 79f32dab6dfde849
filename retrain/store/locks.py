"""Lock a task for one worker at a time, and guard its store's writes by the lease."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from retrain.errors import UserError
from retrain.store.base import Entry, Missing, ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.lease import Lease, LeaseState, acquire, heartbeat, read_lease


class LeaseGuardedStore:
    """An object store that refuses every write (`LeaseLost`) once the lease is lost. Reads are not affected."""

    def __init__(self, objects: ObjectStore, lease: Lease) -> None:
        self._objects, self._lease = objects, lease
        self.url = objects.url

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the store's result."""
        return self._objects.read(key)

    def create(self, key: str, data: bytes) -> str:
        """Create an object in the store. Raises `LeaseLost` once the lease is lost."""
        self._lease.check()
        return self._objects.create(key, data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Replace an object in the store. Raises `LeaseLost` once the lease is lost."""
        self._lease.check()
        return self._objects.replace(key, data, version)

    def write(self, key: str, data: bytes) -> None:
        """Write an object in the store. Raises `LeaseLost` once the lease is lost."""
        self._lease.check()
        self._objects.write(key, data)

    def delete(self, key: str) -> None:
        """Delete an object in the store. Raises `LeaseLost` once the lease is lost."""
        self._lease.check()
        self._objects.delete(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Return the store's result."""
        return self._objects.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        """Return the store's result."""
        return self._objects.folders(prefix)

    def list_unusual(self, prefix: str) -> Iterator[Entry]:
        """Return the store's result."""
        return self._objects.list_unusual(prefix)

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return the store's result."""
        return self._objects.read_range(key, start, size)

    def upload(self, path: Path, key: str) -> None:
        """Upload a file into the store. Raises `LeaseLost` once the lease is lost."""
        self._lease.check()
        self._objects.upload(path, key)

    def download(self, key: str, path: Path) -> None:
        """Download an object of the store into a file."""
        self._objects.download(key, path)

    def open(self, key: str) -> BinaryIO:
        """Return the store's result."""
        return self._objects.open(key)

    def now(self) -> datetime:
        """Return the store's time."""
        return self._objects.now()


POLL_SECONDS = 0.5

log = logging.getLogger("retrain")


class TaskLocked(UserError):
    """Another process holds the lock of the task."""


@contextmanager
def hold_lease(objects: ObjectStore, keys: TaskKeys, patient: bool, seconds: float) -> Iterator[Lease]:
    """Wait for a task's lease, and hold it within the context. `patient` and errors are as in `TaskStore.lock`."""
    lease = _wait_for_lease(objects, keys, patient, seconds)
    with heartbeat(lease, seconds):
        yield lease


def _wait_for_lease(objects: ObjectStore, keys: TaskKeys, patient: bool, seconds: float) -> Lease:
    first = None
    while (lease := acquire(objects, keys.lease, seconds)) is None:
        seen = _current_lease(objects, keys.lease)
        if first is None and seen:
            log.info("%s: waits for %s: its lease is valid %s", keys.task, seen.holder, _format_expiry(seen))
            first = seen
        if not patient and seen and seen != first:
            raise TaskLocked(
                f"{seen.holder} holds the lock of task {keys.task} and keeps renewing its lease, now valid "
                f"{_format_expiry(seen)}. Try again when that process has ended"
            )
        time.sleep(POLL_SECONDS)
    return lease


def _current_lease(objects: ObjectStore, key: str) -> LeaseState | None:
    """Return the lease if it has not expired."""
    with suppress(Missing):
        state, _ = read_lease(objects, key)
        return state if state.is_valid else None
    return None


def _format_expiry(state: LeaseState) -> str:
    return f"until {state.expires_at:%Y-%m-%d %H:%M:%S} UTC"
