"""What the exporter answers: /metrics, /healthz, and a page for each task."""

import html
import signal
from collections.abc import Iterable, Sequence
from threading import Event
from types import FrameType

from prometheus_client import make_wsgi_app

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.monitoring.exporter import Exporter, WatchedTask
from retrain.monitoring.pages import Pages
from retrain.monitoring.process import make_registry
from retrain.monitoring.web import App, Environ, StartResponse, reply, serving
from retrain.store.task_store import open_task_store

TASKS = "/tasks/"


def serve_exporter(tasks: Sequence[Task], host: str, port: int, every: float, stop: Event) -> None:
    """Serve until `stop`, reading what is new every so many seconds. The first reading comes before the first answer.

    Raises `UserError` if the port cannot be had, or a task's store cannot be opened.
    """
    exporter = Exporter([WatchedTask(open_task_store(task), task.schedule) for task in tasks])
    exporter.refresh()
    pages = Pages({task.name: task for task in tasks})
    with serving(host, port, exporter_app(exporter, pages)):
        while not stop.wait(every):
            exporter.refresh()


def stop_on_signals() -> Event:
    """Return an event that SIGTERM and SIGINT set: a clean end, not an error."""
    stop = Event()

    def handle(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def exporter_app(exporter: Exporter, pages: Pages) -> App:
    """Return the WSGI application."""
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
    if path == "/" and len(pages.tasks) > 1:
        return reply(start_response, "200 OK", "text/html", _index(pages.tasks))
    name = next(iter(pages.tasks)) if path == "/" else path.removeprefix(TASKS)
    if name not in pages.tasks:
        return reply(start_response, "404 Not Found", "text/plain", b"there is /, /metrics and /healthz\n")
    try:
        return reply(start_response, "200 OK", "text/html", pages.get(name))
    except UserError as error:
        return reply(start_response, "503 Service Unavailable", "text/plain", f"{error}\n".encode())


def _index(names: Iterable[str]) -> bytes:
    links = "".join(f'<li><a href="{TASKS}{html.escape(name)}">{html.escape(name)}</a></li>' for name in names)
    title = "<title>retrain</title><h1>Tasks</h1>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<ul>{links}</ul></html>'.encode()
