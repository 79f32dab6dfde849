"""Executors of planned runs: in this process, or on Kubeflow."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from retrain.config.loading import task_argument
from retrain.config.task import Task
from retrain.errors import UserError
from retrain.records import Approval, Plan
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now

if TYPE_CHECKING:
    from retrain.training.progress import Observer


class Executor(Protocol):
    """An executor of planned runs."""

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        """Ensure that an unfinished run is running. Return True if this call started it.

        One watcher at a time calls this repeatedly until the run's record is in the ledger. If a run ended without a
        record, this method writes the record, because later drops would otherwise wait forever. `store` refuses writes
        once this process no longer holds the task's lease. Raises `UserError` if the run cannot be started now.
        """


log = logging.getLogger("retrain")


class InProcessExecutor:
    """An executor that completes each run in this process, and resumes interrupted runs."""

    def __init__(self, device: str, make_observer: "Callable[[], Observer] | None" = None) -> None:
        self._device, self._make_observer = device, make_observer

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        """Execute the run. After a `StoreError`, the run can be retried. Any other error ends it with a record."""
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
        result = (
            ended.describe(task_argument(task.name), utc_now())
            if isinstance(ended, Approval)
            else f"{ended.run_id} {ended.ending}"
        )
        log.info("%s: %s", task.name, result)
        return True
