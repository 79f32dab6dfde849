"""A small web server in threads of its own, for those who are only asked now and then."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from retrain.errors import UserError

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    """A slow client holds up nobody else, and nobody at the end."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Scrapes are not worth a line each."""


@contextmanager
def serving(host: str, port: int, application: App) -> Iterator[int]:
    """Serve within; yields the port (0 takes a free one). Raises `UserError` if the port cannot be had."""
    try:
        server = make_server(host, port, application, _Server, _QuietHandler)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another address") from error
    with server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        yield server.server_port
        server.shutdown()


def reply(start_response: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    """Answer a request with a body of this media type."""
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
