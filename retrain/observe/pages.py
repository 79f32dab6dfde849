"""The tasks' pages, drawn in a process of their own: what drawing takes in memory is given back when it is done."""

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from threading import Lock

from retrain.config import Task

FRESH_SECONDS = 60.0
"""How long a page is served before it is drawn anew."""


def draw(task: Task) -> bytes:
    """Return a task's page as HTML. Raises `UserError` if its store cannot be read."""
    from retrain import ledger
    from retrain.layout import Layout
    from retrain.observe.report import gather, render
    from retrain.store import open_store

    store, layout = open_store(task.store, task.endpoint_url), Layout(task.name)
    return render(gather(store, layout, ledger.read(store, layout))).encode()


class Pages:
    """Pages by the name of their task, at most one drawn at a time."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self._pages: dict[str, tuple[float, bytes]] = {}
        self._lock = Lock()
        self._drawers = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)

    def get(self, name: str) -> bytes:
        """Return a page, at most `FRESH_SECONDS` old. Raises `UserError` if the task's store cannot be read."""
        with self._lock:
            drawn_at, page = self._pages.get(name, (float("-inf"), b""))
            if time.monotonic() - drawn_at > FRESH_SECONDS:
                page = self._drawers.submit(draw, self.tasks[name]).result()
                self._pages[name] = time.monotonic(), page
        return page

    def close(self) -> None:
        """Wait for what is being drawn, and end."""
        self._drawers.shutdown()
