"""Validate drops whose upload ended with `_SUCCESS`, and then commit or quarantine them.

Each validation runs in a subprocess and is counted before it begins, because a crash may take the watcher down too.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from retrain.config.task import Task
from retrain.errors import DropError, UserError
from retrain.monitoring import names
from retrain.records import Amendment, Record
from retrain.store.base import Missing, read_record
from retrain.store.drops import DropStates
from retrain.store.lease import LEASE_SECONDS, LeaseLost
from retrain.store.locks import TaskLocked
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.processes import WorkerCrashed, run_in_subprocess
from retrain.watcher.health import Health

MAX_ATTEMPTS = 3
"""Number of unfinished validations of a drop after which it is quarantined."""


class ValidationAttempts(Record):
    """`validations/<drop-id>.json`: the number of consecutive validations that began and never ended.

    The file is removed once a validation ends.
    """

    drop: str
    begun: int = 0
    how: str = "the watcher died during the validation"
    """Why the last of these validations did not end."""


class CountedValidation(NamedTuple):
    """Earlier unfinished validations of a drop, and a store that accepts writes while this process holds the lease."""

    before: ValidationAttempts
    store: TaskStore


@contextmanager
def count_validation(store: TaskStore, drop: str, seconds: float = LEASE_SECONDS) -> Iterator[CountedValidation]:
    """Hold a drop's lease inside the context, and count the context's body as one validation of the drop.

    The lease lasts `seconds` without a heartbeat. Raises `TaskLocked` if another process holds the lease, or if this
    process lost it before a write. A validation stays counted if its subprocess or this process died. Any other end
    resets the count, including an error and a request to stop.
    """
    key = store.keys.validations(drop)
    with store.validation(drop).try_lease(seconds) as lease:
        if lease is None:
            raise TaskLocked(
                f"drop {drop}: another watcher is validating it, or died less than {seconds:.0f} s ago; try again later"
            )
        guarded = store.guarded(lease)
        before = _read_attempts(guarded, key, drop)
        begun = ValidationAttempts(drop=drop, begun=before.begun + 1)
        try:
            guarded.objects.write(key, begun.to_bytes())
            yield CountedValidation(before, guarded)
        except LeaseLost as lost:
            raise TaskLocked(f"drop {drop}: another watcher has taken over its validation") from lost
        except WorkerCrashed as died:
            with suppress(LeaseLost):
                guarded.objects.write(key, begun.model_copy(update={"how": str(died)}).to_bytes())
            raise
        except BaseException:
            _clear_attempts(guarded, key)
            raise
        _clear_attempts(guarded, key)


def _clear_attempts(guarded: TaskStore, key: str) -> None:
    """Reset the count. If the lease is lost, do nothing, because the count belongs to the lease's new holder."""
    with suppress(LeaseLost):
        guarded.objects.delete(key)


def _read_attempts(store: TaskStore, key: str, drop: str) -> ValidationAttempts:
    try:
        return read_record(store.objects, key, ValidationAttempts)[0]
    except Missing:
        return ValidationAttempts(drop=drop)


INGEST_SECONDS = 6 * 3600.0
"""Seconds that the validation of one drop may take."""

log = logging.getLogger("retrain")


class ValidationOutcome(NamedTuple):
    """The outcome of a validation."""

    cause: str | None
    """The reason for the drop's quarantine. None if the drop is committed."""
    findings: tuple[str, ...]
    """Duplicates, conflicts and other findings, in sentences."""
    decoded: tuple[tuple[Path, int], ...] = ()
    """Files of decoded images for a run on this machine, with their times of modification."""
    amended: bool = False
    """Whether the drop became an amendment, because it had only new labels for images of earlier drops."""


def validate_drop(task: Task, drop: str, cache_dir: Path | None = None) -> ValidationOutcome:
    """Commit a drop, or find out why it must be quarantined. Return the outcome. Raises `StoreError`."""
    from retrain.data import decoded  # imports numpy and Pillow; only the subprocess needs them
    from retrain.data.uploads import ingest_drop

    findings: list[str] = []
    try:
        ended = ingest_drop(drop, task, open_task_store(task), findings.append, cache_dir)
    except DropError as error:
        return ValidationOutcome(str(error), tuple(findings))
    return ValidationOutcome(None, tuple(findings), tuple(decoded.COMPLETE_FILES), amended=isinstance(ended, Amendment))


class Ingestion:
    """Validates the drops of one task. It can be interrupted at any point. Any watcher can then repeat it."""

    def __init__(
        self, task: Task, store: TaskStore, health: Health, lease: float, cache_dir: Path | None = None
    ) -> None:
        """Prepare the ingestion. A validation's lease lasts `lease` seconds without a heartbeat.

        The decoded images of validated drops are stored in `cache_dir`, for runs on this machine.
        """
        self._task, self._store, self._cache_dir = task, store, cache_dir
        self._health, self._lease = health, lease

    def validate(self, states: DropStates) -> UserError | None:
        """Validate every drop whose upload is complete and that is not committed. Return the last problem, or None.

        A failure does not stop the validation of the other drops. `TaskLocked` is returned if the only problem is that
        another watcher is validating a drop.
        """
        busy: UserError | None = None
        problem: UserError | None = None
        for drop in sorted(states.unvalidated):
            try:
                if self._validate(drop):
                    states.committed.add(drop)
            except TaskLocked as error:
                busy = error
            except WorkerCrashed as error:  # its message names the drop
                problem = error
            except UserError as error:
                problem = UserError(f"drop {drop}: {error}")
            except Exception as error:  # a defect in the validation of one drop must not stop the others
                log.exception("%s: drop %s", self._task.name, drop)
                problem = UserError(f"drop {drop}: {type(error).__name__}: {error}")
        return problem or busy

    def quarantine(self, store: TaskStore, drop: str, cause: str) -> None:
        """Quarantine a drop, and increment the metric of quarantined drops."""
        store.drops.quarantine(drop, cause)
        self._health.count(names.WATCHER_QUARANTINED, self._task.name)

    def _validate(self, drop: str) -> bool:
        """Validate a drop unless another watcher has validated it already. Return whether the drop is committed.

        Raises `TaskLocked` while another watcher validates the drop, and any other `UserError` if the drop was neither
        committed nor quarantined.
        """
        with count_validation(self._store, drop, self._lease) as (before, guarded):
            now = guarded.drops.scan([drop])
            if drop not in now.unvalidated:
                return drop in now.waiting
            outcome = self._commit_or_explain(drop, before)
            if outcome.cause is not None:
                self.quarantine(guarded, drop, outcome.cause)
                return False
        ended = "has no new image: it is an amendment" if outcome.amended else "is committed"
        log.info("%s: drop %s %s", self._task.name, drop, ended)
        return not outcome.amended

    def _commit_or_explain(self, drop: str, before: ValidationAttempts) -> ValidationOutcome:
        """Commit a drop, or find out why it must be quarantined. Return the outcome.

        Raises `UserError` if this cannot be decided now.
        """
        if before.begun >= MAX_ATTEMPTS:
            return ValidationOutcome(
                f"{before.begun} validations began and never ended; cause of the last: {before.how}", ()
            )
        self._health.heartbeat(working=True)
        try:
            label, arguments = f"validating drop {drop}", (self._task, drop, self._cache_dir)
            outcome = run_in_subprocess(label, INGEST_SECONDS, validate_drop, *arguments)
        finally:
            self._health.heartbeat()
        for finding in outcome.findings:
            log.info("%s: drop %s: %s", self._task.name, drop, finding)
        if outcome.decoded:
            from retrain.data import decoded  # only a watcher that trains comes here, and it has numpy loaded

            decoded.COMPLETE_FILES.update(outcome.decoded)
        return outcome
