"""Check the stores of the watched tasks before the watcher works on them."""

import logging
from collections.abc import Iterable

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.store.base import probe_conditional_writes
from retrain.store.task_store import TaskStore

log = logging.getLogger("retrain")


class StoreProbes:
    """Remembers which stores support conditional writes. Each store is checked until it has passed once.

    Two tasks have the same store if both its address and its endpoint are equal.
    """

    def __init__(self) -> None:
        self._passed: set[tuple[str, str | None]] = set()

    def require(self, task: Task, store: TaskStore) -> None:
        """Raise `StoreError` if a task's store cannot be reached, or does not support conditional writes."""
        address = store.url, task.endpoint_url
        if address not in self._passed:
            probe_conditional_writes(store.objects)
            self._passed.add(address)

    def require_any(self, stores: Iterable[tuple[Task, TaskStore]]) -> None:
        """Check all stores. Raise the last error if none of them passes, and otherwise log the errors.

        One broken store must not stop the tasks in other stores. The watcher checks it again before each step.
        """
        problems: list[UserError] = []
        for task, store in {(store.url, task.endpoint_url): (task, store) for task, store in stores}.values():
            try:
                self.require(task, store)
            except UserError as error:
                problems.append(error)
        if problems and not self._passed:
            raise problems[-1]
        for problem in problems:
            log.warning("%s", problem)
