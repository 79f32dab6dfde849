"""The lease of a task, or of a drop's validation: one holder at a time, a heartbeat and an expiry.

Results are correct even without a lease, because of claims (`claims.py`) and conditional writes. The lease only
prevents two workers from doing the same work. Expiry uses the wall clock, so the machines' clocks must agree to within
a few seconds. If the holder's process ran on this machine and has ended, the lease is free immediately.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock, Thread
from uuid import uuid4

from retrain.errors import StoreError
from retrain.records import Record
from retrain.store.base import Conflict, Missing, ObjectStore, read_record

BOOT_ID, PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


class Holder(Record):
    """A process that holds a lease, with its machine, process id and name."""

    host: str
    pid: int
    machine: str | None
    """Host name, boot id and PID namespace. None if the system does not report them."""
    name: str
    """Random name. It is different for each lease, also within one process."""

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"

    def is_gone(self) -> bool:
        """Return True if the holder's process has ended, as far as this machine can tell. Otherwise return False."""
        return self.machine is not None and self.machine == _machine() and not Path(f"/proc/{self.pid}").exists()


def this_process() -> Holder:
    """Return this process as a new holder."""
    return Holder(host=socket.gethostname(), pid=os.getpid(), machine=_machine(), name=uuid4().hex[:8])


def _machine() -> str | None:
    try:
        return f"{socket.gethostname()}/{BOOT_ID.read_text().strip()}/{PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return None


LEASE_SECONDS = 60.0
"""Seconds that a lease lasts without a heartbeat. The heartbeat renews it every third of this time."""

log = logging.getLogger("retrain")


class LeaseLost(StoreError):
    """Another process may hold the lease by now, so this process must stop its work."""


class LeaseState(Record):
    """The content of `lease.json`. A released lease expires immediately."""

    holder: Holder
    expires_at: datetime

    @property
    def is_valid(self) -> bool:
        """Return whether the lease excludes other processes."""
        return datetime.now(UTC) < self.expires_at and not self.holder.is_gone()


class Lease:
    """A lease that this process holds. Call `check` before each write. The lease is thread-safe."""

    def __init__(self, objects: ObjectStore, key: str, state: LeaseState, version: str, seconds: float) -> None:
        self._objects, self.key, self._state, self._version = objects, key, state, version
        self._seconds, self._lock = seconds, Lock()
        self._is_released = False

    def check(self) -> None:
        """Raise `LeaseLost` if another process may hold the lease, or if it was released.

        A lease expires if this process was suspended or the store could not be reached. `check` then renews it. The
        renewal succeeds only if no other process has taken the lease in the meantime.
        """
        if self._is_released:
            raise LeaseLost(f"{self._objects.url}: {self.key}: the lease was released: run the command again")
        if datetime.now(UTC) >= self._state.expires_at:
            self.renew()

    def renew(self) -> None:
        """Extend the lease. Raises `LeaseLost` if another process has taken the lease."""
        self._put(datetime.now(UTC) + timedelta(seconds=self._seconds))

    def release(self) -> None:
        """Release the lease. If this fails, the work is still successful, because the lease expires by itself."""
        self._is_released = True
        try:
            self._put(datetime.now(UTC))
        except LeaseLost:
            pass
        except StoreError as error:
            log.warning("the lease could not be released and expires by itself: %s", error)

    def _put(self, expires_at: datetime) -> None:
        with self._lock:
            state = self._state.model_copy(update={"expires_at": expires_at})
            try:
                self._version = self._objects.replace(self.key, state.to_bytes(), self._version)
            except (Conflict, Missing) as error:
                self._state = self._state.model_copy(update={"expires_at": datetime.now(UTC)})
                raise LeaseLost(
                    f"{self._objects.url}: {self.key}: another process has taken the lease: run the command again when "
                    "that process has ended"
                ) from error
            self._state = state


def acquire(objects: ObjectStore, key: str, seconds: float = LEASE_SECONDS) -> Lease | None:
    """Take the lease under this key if it is free. Return None while another process holds it."""
    version = None
    with suppress(Missing):
        current, version = read_lease(objects, key)
        if current.is_valid:
            return None
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    state = LeaseState(holder=this_process(), expires_at=expires_at)
    with suppress(Conflict):
        data = state.to_bytes()
        version = objects.replace(key, data, version) if version else objects.create(key, data)
        return Lease(objects, key, state, version, seconds)
    return None


def read_lease(objects: ObjectStore, key: str) -> tuple[LeaseState, str]:
    """Return a lease from the store, and its version.

    Raises `Missing` if it was never held, and `StoreError` if it cannot be read.
    """
    return read_record(objects, key, LeaseState)


@contextmanager
def try_lease(objects: ObjectStore, key: str, seconds: float = LEASE_SECONDS) -> Iterator[Lease | None]:
    """Hold a lease within the context. Yield None if another holder has it."""
    lease = acquire(objects, key, seconds)
    if lease is None:
        yield None
        return
    with heartbeat(lease, seconds):
        yield lease


@contextmanager
def heartbeat(lease: Lease, seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """Renew a lease from a thread within the context, and release it afterwards."""
    stopped = Event()
    heartbeat = Thread(target=_renew_until, args=(lease, stopped, seconds / 3), name=f"lease {lease.key}", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stopped.set()
        heartbeat.join()
        lease.release()


def _renew_until(lease: Lease, stopped: Event, interval: float) -> None:
    """Renew until `stopped` is set or the lease is lost.

    An error of the store does not end the loop, because the lease may still be valid.
    """
    while not stopped.wait(interval):
        try:
            lease.renew()
        except LeaseLost as error:
            log.warning("%s", error)
            return
        except StoreError as error:
            log.warning("the lease was not renewed: %s", error)
