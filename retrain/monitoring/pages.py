"""Render the tasks' pages in a subprocess. The memory for drawing is freed when the subprocess ends."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.store.task_store import open_task_store
from retrain.utils.processes import run_in_subprocess

FRESH_SECONDS = 60.0
"""Seconds for which a page is served before it is rendered again."""
DRAW_SECONDS = 300.0
"""Seconds that the rendering of a page may take, including the reading of the ledger."""
WAIT_SECONDS = 20.0
"""Seconds that a request waits while another page is rendered."""
REQUESTS = 8
"""Largest number of requests that render a page or wait. Others are refused, because each of these requests occupies
one of the exporter's threads, and probes and scrapes need the other threads."""


def draw_page(task: Task) -> bytes:
    """Return a task's page as HTML. Raises `UserError` if its store cannot be read."""
    from retrain.monitoring.report import read_sources, render_page

    store = open_task_store(task)
    return render_page(read_sources(store, store.ledger.read())).encode()


def draw_fleet(tasks: Sequence[Task], prefix: str) -> bytes:
    """Return the page of all tasks as HTML. Links to the pages of single tasks begin with `prefix`."""
    from retrain.monitoring.report.fleet import read_fleet, render_fleet

    return render_fleet(read_fleet(tasks), lambda name: f"{prefix}{name}").encode()


class Pages:
    """One page of all tasks, and a page for each task. At most one page is rendered at a time."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self._pages: dict[str | None, tuple[float, bytes]] = {}
        self._lock, self._requests = Lock(), BoundedSemaphore(REQUESTS)

    def get(self, name: str) -> bytes:
        """Return a task's page, at most `FRESH_SECONDS` old.

        Raises `UserError` if the task's store cannot be read or another page is still being rendered. Raises
        `WorkerCrashed` if the rendering process dies or takes too long.
        """
        return self._drawn(name, name, draw_page, self.tasks[name])

    def fleet(self, prefix: str) -> bytes:
        """Return the page of all tasks, at most `FRESH_SECONDS` old. Raises the same errors as `get`.

        A link to a task's page is `prefix`, followed by the task's name.
        """
        return self._drawn(None, "all tasks", draw_fleet, list(self.tasks.values()), prefix)

    def _drawn(self, key: str | None, name: str, draw: Callable[..., bytes], *arguments: object) -> bytes:
        if (page := self._fresh(key)) is not None:
            return page
        with self._turn(name):
            if (page := self._fresh(key)) is None:
                page = run_in_subprocess(f"drawing the page of {name}", DRAW_SECONDS, draw, *arguments)
                self._pages[key] = time.monotonic(), page
        return page

    def _fresh(self, key: str | None) -> bytes | None:
        drawn_at, page = self._pages.get(key, (float("-inf"), b""))
        return page if time.monotonic() - drawn_at <= FRESH_SECONDS else None

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Hold the right to draw inside the context. Raises `UserError` if it is not free in time."""
        busy = UserError(f"{name}: another page is still being drawn; reload this one in a minute")
        if not self._requests.acquire(blocking=False):
            raise busy
        try:
            if not self._lock.acquire(timeout=WAIT_SECONDS):
                raise busy
            try:
                yield
            finally:
                self._lock.release()
        finally:
            self._requests.release()
