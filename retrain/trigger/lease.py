"""The lease of a task: one holder at a time, with a heartbeat, an expiry and a fencing token.

Claims and conditional writes keep results right without it; the lease keeps two workers from doing the same work.
Expiry goes by the wall clock, so the machines' clocks must agree to within a few seconds.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from uuid import uuid4

from retrain.errors import StoreError
from retrain.layout import Layout
from retrain.records import Record
from retrain.store.base import Conflict, Missing, Store

SECONDS = 60.0
"""How long a lease lasts without a heartbeat; it is renewed three times as often."""

log = logging.getLogger("retrain")


class LeaseLost(StoreError):
    """Somebody else may hold the lease by now: whatever is under way must stop."""


class LeaseState(Record):
    """`lease.json`. The token grows with every holder; a lease that was given back has expired."""

    holder: str
    token: int
    expires_at: datetime


class Lease:
    """A lease that is held. `renew` is called by its heartbeat alone; `check` by anyone, before each write."""

    def __init__(self, store: Store, key: str, state: LeaseState, version: str, seconds: float) -> None:
        self._store, self._key, self._state, self._version = store, key, state, version
        self._seconds = seconds

    @property
    def token(self) -> int:
        """Greater than that of every earlier holder."""
        return self._state.token

    def check(self) -> None:
        """Raise `LeaseLost` once the lease has expired, as it has when this process was frozen for long."""
        if datetime.now(UTC) >= self._state.expires_at:
            raise LeaseLost(f"{self._store.url}: {self._key}: lease {self.token} of {self._state.holder} has expired")

    def renew(self) -> None:
        """Move the expiry on. Raises `LeaseLost` if somebody else has taken the lease."""
        self._put(datetime.now(UTC) + timedelta(seconds=self._seconds))

    def release(self) -> None:
        """Give the lease back; one that was taken already is no error."""
        with suppress(LeaseLost):
            self._put(datetime.now(UTC))

    def _put(self, expires_at: datetime) -> None:
        state = self._state.model_copy(update={"expires_at": expires_at})
        try:
            self._version = self._store.replace(self._key, state.to_bytes(), self._version)
        except (Conflict, Missing) as error:
            self._state = self._state.model_copy(update={"expires_at": datetime.now(UTC)})
            raise LeaseLost(f"{self._store.url}: {self._key}: somebody else has taken the lease") from error
        self._state = state


def acquire(store: Store, layout: Layout, seconds: float = SECONDS) -> Lease | None:
    """Take a task's lease if it is free or has expired; None while somebody else holds it."""
    token, version = 1, None
    with suppress(Missing):
        data, version = store.read(layout.lease)
        current = LeaseState.model_validate_json(data)
        if datetime.now(UTC) < current.expires_at:
            return None
        token = current.token + 1
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    state = LeaseState(holder=_name(), token=token, expires_at=expires_at)
    with suppress(Conflict):
        data = state.to_bytes()
        version = store.replace(layout.lease, data, version) if version else store.create(layout.lease, data)
        return Lease(store, layout.lease, state, version, seconds)
    return None


@contextmanager
def held(store: Store, layout: Layout, seconds: float = SECONDS) -> Iterator[Lease | None]:
    """Hold a task's lease within, its heart beating in a thread; None if somebody else holds it."""
    lease = acquire(store, layout, seconds)
    if lease is None:
        yield None
        return
    stopped = Event()
    heartbeat = Thread(target=_beat, args=(lease, stopped, seconds / 3), name=f"lease of {layout.task}", daemon=True)
    heartbeat.start()
    try:
        yield lease
    finally:
        stopped.set()
        heartbeat.join()
        lease.release()


def _beat(lease: Lease, stopped: Event, interval: float) -> None:
    """Renew until stopped or lost; a store that cannot be reached for a while costs the lease only when it expires."""
    while not stopped.wait(interval):
        try:
            lease.renew()
        except LeaseLost as error:
            log.warning("%s", error)
            return
        except StoreError as error:
            log.warning("the lease was not renewed: %s", error)


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
