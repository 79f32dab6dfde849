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
from retrain.store.layout import Layout
from retrain.store.lease import LEASE_SECONDS, Lease, LeaseState, acquire, heartbeat, read_lease


class LeaseGuardedStore:
    """`store`, with every write refused (`LeaseLost`) once the lease is lost. Reads pass."""

    def __init__(self, store: ObjectStore, lease: Lease) -> None:
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


POLL_SECONDS = 0.5

log = logging.getLogger("retrain")


class TaskLocked(UserError):
    """Somebody else is at work on the task."""


@contextmanager
def task_lock(
    store: ObjectStore, layout: Layout, *, patient: bool = False, seconds: float = LEASE_SECONDS
) -> Iterator[ObjectStore]:
    """Hold a task's lease within, and yield the store, which takes no more writes once the lease is lost.

    Whoever is `patient` waits until the lease is free. Anybody else waits only for one whose holder may be dead: until
    it has expired, or raises `Busy` once it has been renewed.
    """
    lease = _wait_for_lease(store, layout, patient, seconds)
    with heartbeat(lease, layout, seconds):
        yield LeaseGuardedStore(store, lease)


def _wait_for_lease(store: ObjectStore, layout: Layout, patient: bool, seconds: float) -> Lease:
    first = None
    while (lease := acquire(store, layout, seconds)) is None:
        seen = _current_lease(store, layout)
        if first is None and seen:
            log.info("%s: waits for %s, whose lease is good %s", layout.task, seen.holder, _format_expiry(seen))
            first = seen
        if not patient and seen and seen != first:
            raise TaskLocked(
                f"{seen.holder} is at work on {layout.task}: it keeps renewing its lease, now good {_format_expiry(seen)}. "
                "Try again when it has ended"
            )
        time.sleep(POLL_SECONDS)
    return lease


def _current_lease(store: ObjectStore, layout: Layout) -> LeaseState | None:
    """The lease, if it is in force."""
    with suppress(Missing):
        state, _ = read_lease(store, layout)
        return state if state.in_force else None
    return None


def _format_expiry(state: LeaseState) -> str:
    return f"until {state.expires_at:%Y-%m-%d %H:%M:%S} UTC"
