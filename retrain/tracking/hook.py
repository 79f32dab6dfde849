"""Keep a task's MLflow server up to date after runs and promotions. A failure never stops a run."""

from datetime import datetime, timedelta

from retrain.config.task import Task
from retrain.store.task_store import TaskStore
from retrain.utils.clock import Clock, utc_now
from retrain.utils.logs import LOGGER

PAUSE = timedelta(minutes=5)
"""Time between attempts while the server refuses."""


def update_tracker(task: Task, store: TaskStore) -> bool:
    """Export new records to MLflow if the task sets `tracking.mlflow`. Return False after a failure, which is logged.

    The next call exports what is missing.
    """
    if not task.tracking.mlflow:
        return True
    try:
        from retrain.inference.loading import Source
        from retrain.tracking.mlflow_server import export_to_mlflow

        export_to_mlflow(Source(store, task.allowed_factories))
    except Exception as error:  # no error of a tracker may end a run or a watcher
        LOGGER.warning("%s is not up to date in MLflow, `retrain track` tries again: %s", task.name, error)
        return False
    return True


class TrackerUpdates:
    """Calls `update_tracker` after each run and each change of the champion, and again some time after a failure."""

    def __init__(self, task: Task, store: TaskStore, clock: Clock = utc_now) -> None:
        self._task, self._store, self._clock = task, store, clock
        self._exported: object = None
        self._not_before: datetime | None = None

    def follow(self) -> None:
        """Export what is new. Raises `StoreError`."""
        now = self._clock()
        if not self._task.tracking.mlflow or (self._not_before and now < self._not_before):
            return
        champion = self._store.champion.read().champion
        state = self._store.ledger.run_ids(), champion.history if champion else ()
        if state == self._exported:
            return
        if update_tracker(self._task, self._store):
            self._exported, self._not_before = state, None
        else:
            self._not_before = now + PAUSE
