"""Where a run goes: what the watcher asks of Kubeflow, or of its own process."""

from typing import Protocol

from retrain.config import Task
from retrain.records import Plan
from retrain.store.base import Store


class Submitter(Protocol):
    """Sees that runs run."""

    def ensure(self, task: Task, plan: Plan, store: Store) -> bool:
        """See that a run which has not ended is under way; True if it was started by this very call.

        Called again and again until the run's record is in the ledger, by one watcher at a time. A run that ended
        without a record gets one, so that the drops that land after it need not wait for ever. `store` refuses writes
        once the task's lease is lost. Raises `UserError` if the run cannot be started now.
        """
