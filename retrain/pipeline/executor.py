"""Where a planned run is carried out: in this process, or on Kubeflow."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.records import Approval, Plan
from retrain.store.task_store import TaskStore

if TYPE_CHECKING:
    from retrain.training.progress import Observer


class Executor(Protocol):
    """Sees that runs run."""

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        """See that a run which has not ended is under way; True if it was started by this very call.

        Called again and again until the run's record is in the ledger, by one watcher at a time. A run that ended
        without a record gets one, so that the drops that land after it need not wait for ever. `store` refuses writes
        once the task's lease is lost. Raises `UserError` if the run cannot be started now.
        """


log = logging.getLogger("retrain")


class InProcessExecutor:
    """Does each run to its end before it returns; what was begun before is taken up where it was."""

    def __init__(self, device: str, make_observer: "Callable[[], Observer] | None" = None) -> None:
        self._device, self._make_observer = device, make_observer

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        """Do the run. Raises `StoreError` if it is to be tried again; any other error ends it, with a record."""
        from retrain.pipeline import stages
        from retrain.pipeline.context import make_context
        from retrain.training.progress import Observers

        context = make_context(store, task, self._device, self._make_observer or Observers)
        ended: stages.Ended
        try:
            ended = stages.run_plan(context, plan)
        except UserError as error:
            if not stages.is_permanent(error):
                raise
            ended = stages.record_failure(context, plan, str(error))
        log.info("%s: %s", task.name, ended.reason if isinstance(ended, Approval) else f"{ended.run_id} {ended.ending}")
        return True
