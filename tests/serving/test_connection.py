"""The limits of the prediction server's connections, with a real server and real sockets."""

import asyncio
import socket
from collections.abc import Iterator
from threading import Event, Thread

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.monitoring import wait_for

from retrain.serving import connection
from retrain.serving.server import make_server

RELEASED = Event()
"""Set when the server may answer /slow."""


async def answer(request: Request) -> PlainTextResponse:
    await request.body()
    if request.url.path == "/slow":
        await asyncio.to_thread(RELEASED.wait, 60)
    return PlainTextResponse("done")


@pytest.fixture
def port() -> Iterator[int]:
    """Yield the port of a server in a thread."""
    routes = [Route(path, answer, methods=["GET", "POST"]) for path in ("/", "/slow")]
    server = make_server(Starlette(routes=routes), "127.0.0.1", 0)
    thread = Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started or None, "the server's start")
    yield server.port
    server.should_exit = True
    thread.join()


def connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(sent)
    return client


def test_connection_beyond_the_limit_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS", 2)
    clients = [connect(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
    assert [client.recv(15) for client in clients] == [b"HTTP/1.1 200 OK"] * 2
    with connect(port) as third:
        assert third.recv(1) == b""
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody"], ids=len
)
def test_connection_without_a_complete_request_is_closed(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.01)
    with connect(port, sent) as client:
        assert client.recv(1) == b""


def test_request_that_is_being_answered_is_not_idle(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.01)
    RELEASED.clear()
    with connect(port, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        with connect(port) as idle:
            assert idle.recv(1) == b""  # by now, the limit has also passed for the first client
        RELEASED.set()
        assert client.recv(15) == b"HTTP/1.1 200 OK"
