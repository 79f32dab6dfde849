"""The exporter's web server: /metrics, /healthz, and a page for each task."""

import html
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from socketserver import ThreadingMixIn
from threading import Event, Thread
from types import FrameType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from retrain.config import Task
from retrain.errors import UserError
from retrain.layout import Layout
from retrain.observe.exporter import Exporter
from retrain.observe.pages import Pages
from retrain.store import open_store

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

TASKS = "/tasks/"


class _Server(ThreadingMixIn, WSGIServer):
    """A slow client holds up nobody else, and nobody at the end."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Scrapes are not worth a line each."""


def serve(tasks: Sequence[Task], host: str, port: int, every: float, stop: Event) -> None:
    """Serve until `stop`, reading what is new every so many seconds. The first reading comes before the first answer.

    Raises `UserError` if the port cannot be had, or a task's store cannot be opened.
    """
    exporter = Exporter([(open_store(task.store, task.endpoint_url), Layout(task.name)) for task in tasks])
    exporter.refresh()
    pages = Pages({task.name: task for task in tasks})
    with closing(pages), _listen(host, port, app(exporter, pages)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        while not stop.wait(every):
            exporter.refresh()
        server.shutdown()


def stop_on_signals() -> Event:
    """Return an event that SIGTERM and SIGINT set: a clean end, not an error."""
    stop = Event()

    def handle(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def _listen(host: str, port: int, application: App) -> WSGIServer:
    try:
        return make_server(host, port, application, _Server, _QuietHandler)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port") from error


def app(exporter: Exporter, pages: Pages) -> App:
    """Return the WSGI application."""
    registry = CollectorRegistry()
    registry.register(exporter)
    metrics: App = make_wsgi_app(registry)

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/healthz":
            return _reply(start_response, "200 OK", "text/plain", b"ok\n")
        return _page(path, pages, start_response)

    return answer


def _page(path: str, pages: Pages, start_response: StartResponse) -> Iterable[bytes]:
    name = next(iter(pages.tasks)) if path == "/" and len(pages.tasks) == 1 else path.removeprefix(TASKS)
    if path == "/" and len(pages.tasks) > 1:
        return _reply(start_response, "200 OK", "text/html", _index(pages.tasks))
    if name not in pages.tasks:
        return _reply(start_response, "404 Not Found", "text/plain", b"there is /, /metrics and /healthz\n")
    try:
        return _reply(start_response, "200 OK", "text/html", pages.get(name))
    except UserError as error:
        return _reply(start_response, "503 Service Unavailable", "text/plain", f"{error}\n".encode())


def _index(names: Iterable[str]) -> bytes:
    links = "".join(f'<li><a href="{TASKS}{html.escape(name)}">{html.escape(name)}</a></li>' for name in names)
    title = "<title>retrain</title><h1>Tasks</h1>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<ul>{links}</ul></html>'.encode()


def _reply(start_response: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
