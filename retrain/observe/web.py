"""A small web server in threads of its own, for those who are asked now and then; it only ever reads."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from wsgiref.simple_server import make_server

from retrain.errors import UserError
from retrain.observe.limits import Handler, Server
from retrain.observe.style import content_policy

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[[str, Headers], object]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


def start(host: str, port: int, application: App) -> Server:
    """Serve until the process ends, or `shutdown`; port 0 takes a free one. Raises `OSError` if it cannot be had."""
    server = make_server(host, port, guarded(application), Server, Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    return server


@contextmanager
def serving(host: str, port: int, application: App) -> Iterator[int]:
    """Serve within; yields the port (0 takes a free one). Raises `UserError` if the port cannot be had."""
    try:
        server = start(host, port, application)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another address") from error
    with server:
        yield server.server_port
        server.shutdown()


def guarded(application: App) -> App:
    """Let only GET and HEAD through, and send the headers that keep a browser from running or keeping anything."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start_guarded(status: str, headers: Headers) -> object:
            return start_response(status, [*headers, *_guards()])

        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return reply(
                start_guarded, "405 Method Not Allowed", "text/plain", b"GET or HEAD\n", ("Allow", "GET, HEAD")
            )
        body = application(environ | {"REQUEST_METHOD": "GET"}, start_guarded)
        return body if method == "GET" else []

    return answer


def _guards() -> Headers:
    return [
        ("Content-Security-Policy", f"{content_policy()}; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
        ("Server", "retrain"),
    ]


def reply(start_response: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]) -> list[bytes]:
    """Answer a request with a body of this media type, and more headers."""
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *more])
    return [body]
