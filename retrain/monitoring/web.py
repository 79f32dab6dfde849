"""Serve WSGI applications over HTTP with waitress, with headers that keep browsers from running scripts.

At most one path accepts POST. All other paths are read-only.
"""

import hashlib
import socket
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.resources import files
from threading import Event, Thread
from typing import Any, NamedTuple

from waitress.server import create_server
from waitress.wasyncore import close_all, loop

from retrain.errors import UserError

CONNECTIONS = 1000
"""Largest number of open connections. Waitress needs no thread to read a request, so a slow client does not delay the
other clients."""
THREADS = 16
"""Largest number of requests that are answered at the same time. Further requests wait."""
REQUEST_BYTES = 16 * 1024
"""Largest number of bytes of request line and headers."""
ANSWER_BYTES = 1 << 28
"""Bytes of a reply that are buffered in memory for a slow client. Further bytes go to a temporary file."""
IDLE_SECONDS = 30
"""Seconds after which an idle connection is closed."""
EVERYWHERE = "::"
"""Address on which a server accepts connections to every address of this machine, with IPv6 and IPv4."""

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[[str, Headers], object]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class Posts(NamedTuple):
    """The only path that accepts POST requests, and OPTIONS requests that ask whether POST is allowed."""

    path: str
    body_bytes: int
    """Largest number of bytes of a request's body."""


class WebServer:
    """Serves an application in a separate thread until `close`."""

    def __init__(self, host: str, port: int, application: App, posts: Posts | None = None) -> None:
        """Listen on an address. Port 0 selects a free port. Raises `OSError` if the address cannot be opened.

        The address `::` stands for all addresses of this machine, with IPv4 too.
        """
        listening = _open_socket(host, port)
        self.port: int = listening.getsockname()[1]
        self._map: dict[int, Any] = {}
        self._server: Any = create_server(
            guard(application, posts),
            map=self._map,
            sockets=[listening],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE_SECONDS,
            max_request_header_size=REQUEST_BYTES,
            max_request_body_size=posts.body_bytes if posts else 1,  # 1 byte: a request with a body gets status 413
            outbuf_overflow=ANSWER_BYTES,
            ident="retrain",
            clear_untrusted_proxy_headers=True,
        )
        self._ended = Event()
        self._thread = Thread(target=self._serve, daemon=True, name=f"http {host}:{self.port}")
        self._thread.start()

    def close(self) -> None:
        """Close all connections, and wait until all threads have ended."""
        self._ended.set()
        self._server.pull_trigger()
        self._thread.join()
        self._server.task_dispatcher.shutdown()
        close_all(self._map)  # last, because threads write to the pipe that wakes the server

    def _serve(self) -> None:
        while not self._ended.is_set():
            loop(timeout=1, use_poll=True, map=self._map, count=1)


def _open_socket(host: str, port: int) -> socket.socket:
    if host == EVERYWHERE:  # a kernel without IPv6 has only the IPv4 addresses
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server((host if both else "", port), family=family, dualstack_ipv6=both)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def url_host(host: str) -> str:
    """Return a host as it is written in a URL: with brackets around an address of IPv6."""
    return f"[{host}]" if ":" in host else host


@contextmanager
def serving(host: str, port: int, application: App, posts: Posts | None = None) -> Iterator[int]:
    """Run the server within the context, and yield its port. Port 0 selects a free port.

    Raises `UserError` if the address cannot be opened.
    """
    try:
        server = WebServer(host, port, application, posts)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another address") from error
    with closing(server):
        yield server.port


def guard(application: App, posts: Posts | None = None) -> App:
    """Return an application that allows only GET, HEAD and `posts`. Its headers forbid scripts and caching."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start_guarded(status: str, headers: Headers) -> object:
            return start_response(status, [*headers, *_guard_headers()])

        method = environ["REQUEST_METHOD"]
        if posts and method in ("POST", "OPTIONS") and environ["PATH_INFO"] == posts.path:
            return application(environ, start_guarded)
        if method not in ("GET", "HEAD"):
            return reply(
                start_guarded, "405 Method Not Allowed", "text/plain", b"use GET or HEAD\n", ("Allow", "GET, HEAD")
            )
        body = application(environ | {"REQUEST_METHOD": "GET"}, start_guarded)
        return body if method == "GET" else []

    return answer


def _guard_headers() -> Headers:
    return [
        ("Content-Security-Policy", f"{content_policy()}; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ]


def reply(start_response: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]) -> list[bytes]:
    """Start a response with this status, this media type and `more` headers. Return its body as a list."""
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *more])
    return [body]


@cache
def style_sheet() -> str:
    """Return the style sheet that every page includes."""
    return files("retrain.monitoring").joinpath("report/templates/report.css").read_text(encoding="utf-8")


@cache
def content_policy() -> str:
    """Return the content security policy: it allows the style sheet by its hash, inline images, and nothing else."""
    digest = b64encode(hashlib.sha256(style_sheet().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
