"""Keep a task's trackers up to date after runs and promotions. A failure never stops a run."""

from collections.abc import Callable
from datetime import datetime, timedelta

from retrain.config.automation import Tracking
from retrain.config.task import Task
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.clock import Clock, utc_now
from retrain.utils.logs import LOGGER
from retrain.utils.processes import run_in_subprocess

PAUSE = timedelta(minutes=5)
"""Time to wait after a failed export."""
EXPORT_SECONDS = 3600.0
"""Seconds that an export to MLflow may take in a subprocess. The next export completes an interrupted one."""


def update_trackers(task: Task, store: TaskStore, *, subprocess: bool = False) -> bool:
    """Export new records and promotions to the trackers of the task's `tracking`.

    If an export fails, log it and return False. The next call exports the missing runs. With `subprocess`, the export
    to MLflow uses a subprocess, because torch and MLflow's client take 0.7 GB of memory.
    """
    exports: dict[str, Callable[[Task, TaskStore], object]] = {}
    if task.tracking.mlflow:
        exports["MLflow"] = _update_mlflow_in_subprocess if subprocess else _update_mlflow
    if task.tracking.model_registry:
        exports["the Model Registry"] = _update_registry
    results = [_try_export(name, export, task, store) for name, export in exports.items()]
    return all(results)


def _try_export(name: str, export: Callable[[Task, TaskStore], object], task: Task, store: TaskStore) -> bool:
    try:
        export(task, store)
    except Exception as error:  # no error of a tracker may end a run or a watcher
        LOGGER.warning("%s is not up to date in %s; `retrain track` exports it again: %s", task.name, name, error)
        return False
    return True


def _update_mlflow(task: Task, store: TaskStore) -> object:
    from retrain.inference.loading import Source
    from retrain.tracking.mlflow_server import export_to_mlflow

    return export_to_mlflow(Source(store, task.allowed_factories))


def _update_mlflow_in_subprocess(task: Task, _: TaskStore) -> object:
    return run_in_subprocess(f"exporting {task.name} to MLflow", EXPORT_SECONDS, _open_and_update_mlflow, task)


def _open_and_update_mlflow(task: Task) -> None:
    _update_mlflow(task, open_task_store(task))


def _update_registry(_: Task, store: TaskStore) -> object:
    from retrain.tracking.model_registry import export_to_registry

    return export_to_registry(store)


class TrackerUpdates:
    """Calls `update_trackers` after each run and each change of the champion, and again after a failure and a pause."""

    def __init__(self, task: Task, store: TaskStore, clock: Clock = utc_now) -> None:
        self._task, self._store, self._clock = task, store, clock
        self._exported: object = None
        self._not_before: datetime | None = None

    def follow(self) -> None:
        """Export new runs and promotions, unless the last failed export is too recent. Raises `StoreError`."""
        now = self._clock()
        if self._task.tracking == Tracking() or (self._not_before and now < self._not_before):
            return
        champion = self._store.champion.read().champion
        state = self._store.ledger.run_ids(), champion.history if champion else ()
        if state == self._exported:
            return
        if update_trackers(self._task, self._store, subprocess=True):
            self._exported, self._not_before = state, None
        else:
            self._not_before = now + PAUSE
