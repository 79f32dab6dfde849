"""Validate drops that ended with `_SUCCESS`: commit them, or put them into quarantine.

Each validation runs in a subprocess and is counted before it begins: a crash may take the watcher down with it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from retrain.config.task import Task
from retrain.errors import DropError, UserError
from retrain.monitoring import names
from retrain.records import Record
from retrain.store.base import Missing, read_record
from retrain.store.drops import DropStates
from retrain.store.lease import LEASE_SECONDS, LeaseLost
from retrain.store.locks import TaskLocked
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.processes import WorkerCrashed, run_in_subprocess
from retrain.watcher.health import Health

MAX_ATTEMPTS = 3
"""So often a drop's validation may come to no end before the drop is put into quarantine."""


class ValidationAttempts(Record):
    """`validations/<drop-id>.json`: counts validations in a row that began and never ended; removed once one ends."""

    drop: str
    begun: int = 0
    how: str = "the watcher was gone too"
    """What became of the last one."""


class CountedValidation(NamedTuple):
    """A drop's validations before this one, and a store that takes what this one writes for as long as it is ours."""

    before: ValidationAttempts
    store: TaskStore


@contextmanager
def count_validation(store: TaskStore, drop: str, seconds: float = LEASE_SECONDS) -> Iterator[CountedValidation]:
    """Count what is done within as one of a drop's validations.

    The drop's lease, which lasts `seconds` without a heartbeat, is held within, so those before it are over. Raises
    `TaskLocked` at once if somebody else has it (one that is under way is no death), or once a write finds it lost.

    One whose process died, or that took this one along, stays counted. Any other end, an error or a wish to stop
    included, ends the row.
    """
    key = store.keys.validations(drop)
    with store.validation(drop).try_lease(seconds) as lease:
        if lease is None:
            raise TaskLocked(f"drop {drop}: another watcher is validating it, or died less than {seconds:.0f} s ago")
        ours = store.guarded(lease)
        before = _read_attempts(ours, key, drop)
        begun = ValidationAttempts(drop=drop, begun=before.begun + 1)
        try:
            ours.objects.write(key, begun.to_bytes())
            yield CountedValidation(before, ours)
        except LeaseLost as lost:
            raise TaskLocked(f"drop {drop}: another watcher has taken over its validation") from lost
        except WorkerCrashed as died:
            with suppress(LeaseLost):
                ours.objects.write(key, begun.model_copy(update={"how": str(died)}).to_bytes())
            raise
        except BaseException:
            _clear_attempts(ours, key)
            raise
        _clear_attempts(ours, key)


def _clear_attempts(ours: TaskStore, key: str) -> None:
    """End the row; once the lease is lost, it is the successor's."""
    with suppress(LeaseLost):
        ours.objects.delete(key)


def _read_attempts(store: TaskStore, key: str, drop: str) -> ValidationAttempts:
    try:
        return read_record(store.objects, key, ValidationAttempts)[0]
    except Missing:
        return ValidationAttempts(drop=drop)


INGEST_SECONDS = 6 * 3600.0
"""The longest that one drop may take to be validated."""

log = logging.getLogger("retrain")


def try_ingest_drop(task: Task, drop: str) -> str | None:
    """Commit a drop; return why it belongs into quarantine instead, or None. Raises `StoreError`."""
    from retrain.data.uploads import ingest_drop  # brings torch, which must not come to where this is only named

    try:
        ingest_drop(drop, task, open_task_store(task))
    except DropError as error:
        return str(error)
    return None


class Ingestion:
    """Takes in the drops of one task. It can be cut anywhere and done again, here or by another watcher."""

    def __init__(self, task: Task, store: TaskStore, health: Health, lease: float) -> None:
        """`lease`: how many seconds that of a validation lasts without a heartbeat."""
        self._task, self._store = task, store
        self._health, self._lease = health, lease

    def validate(self, landed: DropStates) -> UserError | None:
        """Validate what ended without a manifest; return why one could not be, after all others had their turn.

        That is `TaskLocked` if all were seen to but those that another watcher is validating.
        """
        busy: UserError | None = None
        problem: UserError | None = None
        for drop in sorted(landed.unvalidated):
            try:
                if self._validate(drop):
                    landed.committed.add(drop)
            except TaskLocked as error:
                busy = error
            except WorkerCrashed as error:  # its message names the drop
                problem = error
            except UserError as error:
                problem = UserError(f"drop {drop}: {error}")
        return problem or busy

    def put_aside(self, store: TaskStore, drop: str, cause: str) -> None:
        """Put a drop into quarantine, and count it."""
        store.drops.quarantine(drop, cause)
        self._health.count(names.WATCHER_QUARANTINED, self._task.name)

    def _validate(self, drop: str) -> bool:
        """Validate a drop, unless another watcher has done so by now; return whether it is committed.

        Raises `TaskLocked` while another watcher validates it, and any other `UserError` if it was neither committed
        nor put into quarantine.
        """
        with count_validation(self._store, drop, self._lease) as (before, ours):
            now = ours.drops.scan([drop])
            if drop not in now.unvalidated:
                return drop in now.waiting
            cause = self._judge(drop, before)
            if cause is not None:
                self.put_aside(ours, drop, cause)
                return False
        log.info("%s: drop %s is committed", self._task.name, drop)
        return True

    def _judge(self, drop: str, before: ValidationAttempts) -> str | None:
        """Commit a drop; return why it belongs into quarantine instead, or None. Raises `UserError` if unknown."""
        if before.begun >= MAX_ATTEMPTS:
            return f"{before.begun} validations began and never ended, the last: {before.how}"
        self._health.alive(working=True)
        try:
            return run_in_subprocess(f"validating drop {drop}", INGEST_SECONDS, try_ingest_drop, self._task, drop)
        finally:
            self._health.alive()
