"""Serve the exporter: /metrics, /healthz, a page of all tasks, and a page for each task."""

import signal
from collections.abc import Iterable, Sequence
from threading import Event
from types import FrameType

from prometheus_client import make_wsgi_app

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.monitoring.exporter import FIRST_PATIENCE, Exporter, WatchedTask
from retrain.monitoring.metrics import make_registry
from retrain.monitoring.pages import Pages
from retrain.monitoring.web import App, Environ, StartResponse, reply, serving
from retrain.store.task_store import open_task_store

FLEET, TASKS = "/fleet", "/tasks/"
NOT_FOUND = b"not found; use /, /fleet, /tasks/NAME, /metrics or /healthz\n"


def serve_exporter(tasks: Sequence[Task], host: str, port: int, every: float, stop: Event) -> None:
    """Serve until `stop` is set. Read new records before the start, and then every `every` seconds.

    Raises `UserError` if the port or a task's store cannot be opened.
    """
    exporter = Exporter([WatchedTask(open_task_store(task), task.schedule) for task in tasks])
    exporter.refresh(FIRST_PATIENCE)
    pages = Pages({task.name: task for task in tasks})
    with serving(host, port, exporter_app(exporter, pages)):
        while not stop.wait(every):
            exporter.refresh()
    exporter.close()


def stop_on_signals() -> Event:
    """Return an event that SIGTERM and SIGINT set. The process can then exit without an error."""
    stop = Event()

    def handle(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def exporter_app(exporter: Exporter, pages: Pages) -> App:
    """Return the WSGI application of the exporter."""
    metrics: App = make_wsgi_app(make_registry(exporter))

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/healthz":
            return reply(start_response, "200 OK", "text/plain", b"ok\n")
        return _page(path, pages, start_response)

    return answer


def _page(path: str, pages: Pages, start_response: StartResponse) -> Iterable[bytes]:
    name = next(iter(pages.tasks)) if path == "/" else path.removeprefix(TASKS)
    is_fleet = path == FLEET or (path == "/" and len(pages.tasks) > 1)
    if not is_fleet and name not in pages.tasks:
        return reply(start_response, "404 Not Found", "text/plain", NOT_FOUND)
    try:
        page = pages.fleet(TASKS) if is_fleet else pages.get(name)
        return reply(start_response, "200 OK", "text/html", page)
    except UserError as error:
        return reply(start_response, "503 Service Unavailable", "text/plain", f"{error}\n".encode())
