"""Run an HTTP proxy in front of an object store. It can change, withhold or invent requests and replies."""

import http.client
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit


@dataclass
class Request:
    """A request of the client."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """The reply to the client. If its body is shorter than Content-Length, the connection ends early: by a TCP reset if
    `reset` is true."""

    status: int
    headers: dict[str, str]
    body: bytes
    reset: bool = False


Forward = Callable[[Request], Reply]
Fault = Callable[[Request, Forward], Reply | None]
"""A function that answers a request. It may forward the request to the server. If it returns None, the proxy closes the
connection without a reply."""


def refusal(status: int, code: str) -> Reply:
    """Return an error reply in the format of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Refused by the test.</Message></Error>".encode()
    return Reply(status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)


@contextmanager
def faulty(server: str, fault: Fault) -> Iterator[str]:
    """Run a proxy with `fault` in front of the server at an address, and yield the proxy's address."""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server, fault))
    thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def _handler(server: str, fault: Fault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue"; without the answer, boto3 waits a second

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = fault(Request(self.command, self.path, dict(self.headers), body), lambda r: _forward(server, r))
            self.close_connection = True
            if reply is not None:
                with suppress(ConnectionError):  # the client was killed
                    self.send(reply)

        def send(self, reply: Reply) -> None:
            self.send_response_only(reply.status)  # unlike `send_response`, adds no Date and Server
            for name, value in (reply.headers | {"Connection": "close"}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    return Handler


def _forward(server: str, request: Request) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        response = connection.getresponse()
        headers, body = dict(response.headers), response.read()
        if headers.pop("Transfer-Encoding", None):  # `read` has joined the chunks
            headers["Content-Length"] = str(len(body))
        return Reply(response.status, headers, body)
    finally:
        connection.close()
