"""A small WSGI server with limits on connections, time and sizes."""

import io
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from retrain.errors import UserError
from retrain.monitoring.report.page import content_policy

CONNECTIONS = 64
"""At once, each a thread of its own."""
REQUEST_BYTES = 16 * 1024
"""Of request line and headers; a body is never read."""
REQUEST_SECONDS = 5.0
"""From the connection to the end of the headers, however steadily they drip."""
ANSWER_SECONDS = 60.0
"""In which a client must have taken the answer."""
TOO_LARGE = b"HTTP/1.0 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n"


class RequestTooLarge(Exception):
    """A request's line and headers are longer than allowed."""


class _Request(io.RawIOBase):
    """What a client sends: at most so many bytes, all of them before a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._left = connection, REQUEST_BYTES
        self._deadline = time.monotonic() + REQUEST_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises `RequestTooLarge`, and `TimeoutError` past the deadline."""
        if self._left == 0:
            raise RequestTooLarge
        self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
        read = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= read
        return read


class _Answer(io.BufferedIOBase):
    """What is sent to a client, which has so many seconds to take it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Raises `ConnectionAbortedError` if the client does not take it in time, as if it had gone."""
        self._connection.settimeout(ANSWER_SECONDS)
        try:
            self._connection.sendall(data)
        except TimeoutError as error:
            raise ConnectionAbortedError from error
        return len(data)


class Handler(WSGIRequestHandler):
    """Answers one request and closes: no line is logged for it, and a client that goes away is no error."""

    server: "Server"

    def setup(self) -> None:
        """Read and write within the limits."""
        super().setup()
        self.rfile, self.wfile = io.BufferedReader(_Request(self.connection)), _Answer(self.connection)

    def handle(self) -> None:
        """Answer, unless the client is too slow, gone, or says too much."""
        try:
            super().handle()
        except RequestTooLarge:
            self.wfile.write(TOO_LARGE)
        except (TimeoutError, ConnectionError):
            pass

    def get_environ(self) -> dict[str, Any]:
        """Called once the headers are read: from now on the connection is not one to give up."""
        self.server.has_asked(self.connection)
        return super().get_environ()

    def log_message(self, *_: object) -> None:
        """Scrapes are not worth a line each."""


class Server(ThreadingMixIn, WSGIServer):
    """Where all connections are taken, the one that has been longest in asking makes room for the next."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._lock, self._open, self._asking = Lock(), set[socket.socket](), dict[socket.socket, None]()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread. Where all are at work on answers, it is closed."""
        with self._lock:
            full = len(self._open) >= CONNECTIONS
            slowest = next(iter(self._asking), None) if full else None
            refused = full and slowest is None
            if slowest:
                self._forget(slowest)
                with suppress(OSError):
                    slowest.shutdown(socket.SHUT_RDWR)
            if not refused:
                self._open.add(request)
                self._asking[request] = None
        if refused:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def has_asked(self, request: Any) -> None:
        """Note that a connection's request has been read."""
        with self._lock:
            self._asking.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and give its place back."""
        with self._lock:
            self._forget(request)
        super().shutdown_request(request)

    def _forget(self, request: socket.socket) -> None:
        self._open.discard(request)
        self._asking.pop(request, None)


Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[[str, Headers], object]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


def start(host: str, port: int, application: App) -> Server:
    """Serve until the process ends, or `shutdown`; port 0 takes a free one. Raises `OSError` if it cannot be had."""
    server = make_server(host, port, guard(application), Server, Handler)
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


def guard(application: App) -> App:
    """Let only GET and HEAD through, and send the headers that keep a browser from running or keeping anything."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start_guarded(status: str, headers: Headers) -> object:
            return start_response(status, [*headers, *_guard_headers()])

        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return reply(
                start_guarded, "405 Method Not Allowed", "text/plain", b"GET or HEAD\n", ("Allow", "GET, HEAD")
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
        ("Server", "retrain"),
    ]


def reply(start_response: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]) -> list[bytes]:
    """Answer a request with a body of this media type, and more headers."""
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *more])
    return [body]
