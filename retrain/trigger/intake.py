"""Drops that ended with `_SUCCESS`: committed, or put into quarantine. Validated in a process apart (see `apart`)."""

import logging

from retrain.apart import apart
from retrain.config import Task
from retrain.data.quarantine import quarantine
from retrain.errors import DropError, UserError
from retrain.layout import Layout
from retrain.observe import names
from retrain.store import open_store
from retrain.store.base import Store
from retrain.trigger.at_work import Busy
from retrain.trigger.health import Health
from retrain.trigger.landing import Landed, scan
from retrain.trigger.validations import LIMIT, Validations, counted

INTAKE_SECONDS = 6 * 3600.0
"""The longest that one drop may take to be validated."""

log = logging.getLogger("retrain")


def take_in(task: Task, drop: str) -> str | None:
    """Commit a drop; return why it belongs into quarantine instead, or None. Raises `StoreError`."""
    from retrain.data.adopting import adopt  # brings torch, which must not come to where this is only named

    try:
        adopt(drop, task, open_store(task.store, task.endpoint_url))
    except DropError as error:
        return str(error)
    return None


class Intake:
    """Takes in the drops of one task. It can be cut anywhere and done again, here or by another watcher."""

    def __init__(self, task: Task, store: Store, health: Health, lease: float) -> None:
        """`lease`: how many seconds that of a validation lasts without a heartbeat."""
        self._task, self._store, self._layout = task, store, Layout(task.name)
        self._health, self._lease = health, lease

    def validate(self, landed: Landed) -> UserError | None:
        """Validate what ended without a manifest; return why one could not be, after all others had their turn.

        That is `Busy` if all were seen to but those that another watcher is validating.
        """
        busy = problem = None
        for drop in sorted(landed.unvalidated):
            try:
                if self._validate(drop):
                    landed.committed.add(drop)
            except Busy as error:
                busy = error
            except UserError as error:
                problem = UserError(f"drop {drop}: {error}")
        return problem or busy

    def put_aside(self, store: Store, drop: str, cause: str) -> None:
        """Put a drop into quarantine, and count it."""
        quarantine(store, self._layout, drop, cause)
        self._health.count(names.WATCHER_QUARANTINED, self._task.name)

    def _validate(self, drop: str) -> bool:
        """Validate a drop, unless another watcher has done so by now; return whether it is committed.

        Raises `Busy` while another is at it, any other `UserError` if it was neither committed nor put into quarantine.
        """
        with counted(self._store, self._layout, drop, self._lease) as (before, ours):
            now = scan(ours, self._layout, [drop])
            if drop not in now.unvalidated:
                return drop in now.waiting
            cause = self._judge(drop, before)
            if cause is not None:
                self.put_aside(ours, drop, cause)
                return False
        log.info("%s: drop %s is committed", self._task.name, drop)
        return True

    def _judge(self, drop: str, before: Validations) -> str | None:
        """Commit a drop; return why it belongs into quarantine instead, or None. Raises `UserError` if unknown."""
        if before.begun >= LIMIT:
            return f"{before.begun} validations came to no end, the last: {before.how}"
        self._health.alive(working=True)
        try:
            return apart(INTAKE_SECONDS, take_in, self._task, drop)
        finally:
            self._health.alive()
