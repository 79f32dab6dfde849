"""One task's part of an object store: its drops, runs, ledger, champion, lease and claims."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from retrain.config.task import Task
from retrain.store import open_store
from retrain.store.approvals import Approvals
from retrain.store.base import ObjectStore
from retrain.store.champions import ChampionPointer
from retrain.store.claims import Claims
from retrain.store.corrections import Erasures
from retrain.store.drifts import Drifts
from retrain.store.drops import Drops
from retrain.store.keys import TaskKeys
from retrain.store.lease import LEASE_SECONDS, Lease, try_lease
from retrain.store.ledger import Ledger
from retrain.store.locks import LeaseGuardedStore, hold_lease
from retrain.store.runs import EndedRunFiles, RunFiles


class TaskStore:
    """One task's part of an object store. All access to the task's data goes through it."""

    def __init__(self, objects: ObjectStore, task: str) -> None:
        self.objects, self.task, self.keys = objects, task, TaskKeys(task)
        self.drops = Drops(objects, self.keys)
        self.erasures = Erasures(objects, self.keys)
        self.ledger = Ledger(objects, self.keys)
        self.champion = ChampionPointer(objects, self.keys)
        self.drifts = Drifts(objects, self.keys)
        self.approvals = Approvals(objects, self.keys, self.ledger)

    @property
    def url(self) -> str:
        """Return the object store's address, in the form of a task file."""
        return self.objects.url

    def run(self, run_id: str) -> RunFiles:
        """Return the files of a run."""
        return RunFiles(self.objects, self.keys, run_id)

    def ended_run(self, run_id: str) -> EndedRunFiles:
        """Return the files of a run that has ended. Its plan, result and weights are read once."""
        return EndedRunFiles(self.objects, self.keys, run_id)

    def claims(self) -> Claims:
        """Return the claims of the task. They are not read before `refresh` is called."""
        return Claims(self.objects, self.keys)

    def validation(self, drop: str) -> "TaskStore":
        """Return the part of the store for one drop's validation, with a separate lease."""
        return TaskStore(self.objects, self.keys.validating(drop).task)

    @contextmanager
    def lock(self, *, patient: bool = False, seconds: float = LEASE_SECONDS) -> Iterator["TaskStore"]:
        """Hold the task's lease within the context, and yield a store whose writes fail once the lease is lost.

        A `patient` caller waits until the lease is free. Any other caller waits only until the lease would expire,
        because the holder may be dead. If the holder renews the lease, this caller gets `TaskLocked`.
        """
        with hold_lease(self.objects, self.keys, patient, seconds) as lease:
            yield self.guarded(lease)

    @contextmanager
    def lock_commits(self) -> Iterator["TaskStore"]:
        """Hold the lease for commits within the context: drops and amendments are committed one at a time.

        The samples that a drop adds depend on the drops before it.
        """
        with hold_lease(self.objects, self.keys.commits, True, LEASE_SECONDS) as lease:
            yield self.guarded(lease)

    @contextmanager
    def lock_run(self, run_id: str, *, patient: bool) -> Iterator[Lease | None]:
        """Hold one run's lease within the context. While another process holds it, wait if `patient`, else yield None.

        Two commands can thus train different runs of one task at the same time.
        """
        keys = self.keys.training(run_id)
        attempt = (
            hold_lease(self.objects, keys, True, LEASE_SECONDS) if patient else try_lease(self.objects, keys.lease)
        )
        with attempt as lease:
            yield lease

    def try_lease(self, seconds: float = LEASE_SECONDS) -> AbstractContextManager[Lease | None]:
        """Hold the task's lease within the context. Yield None if another process holds it."""
        return try_lease(self.objects, self.keys.lease, seconds)

    def guarded(self, lease: Lease) -> "TaskStore":
        """Return a view of this store that refuses every write (`LeaseLost`) once the lease is lost."""
        return TaskStore(LeaseGuardedStore(self.objects, lease), self.task)


def open_task_store(task: Task) -> TaskStore:
    """Open the store that a task file names. Raises `StoreError` if its address cannot be opened."""
    return TaskStore(open_store(task.store, task.endpoint_url), task.name)
