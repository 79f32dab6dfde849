"""Work on a task, done by one worker at a time: by somebody's command, a pipeline's step or a watcher."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from retrain.errors import UserError
from retrain.layout import Layout
from retrain.store.base import Missing, Store
from retrain.trigger.fence import Fenced
from retrain.trigger.lease import SECONDS, Lease, LeaseState, acquire, beating, read

POLL_SECONDS = 0.5

log = logging.getLogger("retrain")


class Busy(UserError):
    """Somebody else is at work on the task."""


@contextmanager
def at_work(store: Store, layout: Layout, *, patient: bool = False, seconds: float = SECONDS) -> Iterator[Store]:
    """Hold a task's lease within, and yield the store, which takes no more writes once the lease is lost.

    Whoever is `patient` waits until the lease is free. Anybody else waits only for one whose holder may be dead: until
    it has expired, or raises `Busy` once it has been renewed.
    """
    lease = _wait(store, layout, patient, seconds)
    with beating(lease, layout, seconds):
        yield Fenced(store, lease)


def _wait(store: Store, layout: Layout, patient: bool, seconds: float) -> Lease:
    first = None
    while (lease := acquire(store, layout, seconds)) is None:
        seen = _seen(store, layout)
        if first is None and seen:
            log.info("%s: waits for %s, whose lease is good %s", layout.task, seen.holder, _until(seen))
            first = seen
        if not patient and seen and seen != first:
            raise Busy(
                f"{seen.holder} is at work on {layout.task}: it keeps renewing its lease, now good {_until(seen)}. "
                "Try again when it has ended"
            )
        time.sleep(POLL_SECONDS)
    return lease


def _seen(store: Store, layout: Layout) -> LeaseState | None:
    """The lease, if it is in force."""
    with suppress(Missing):
        state, _ = read(store, layout)
        return state if state.in_force else None
    return None


def _until(state: LeaseState) -> str:
    return f"until {state.expires_at:%Y-%m-%d %H:%M:%S} UTC"
