"""HTTP servers are read-only, forbid scripts in browsers, and are not blocked by slow clients."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Semaphore
from typing import NamedTuple

import pytest
from support import known_ledger, monitoring
from support.programs import free_port

from retrain.config.task import Task
from retrain.monitoring import live
from retrain.monitoring.web import REQUEST_BYTES, THREADS, Environ, StartResponse, content_policy, reply, serving
from retrain.store import LocalStore
from retrain.watcher import health
from retrain.watcher.health import Health


@contextmanager
def exporter(folder: Path) -> Iterator[int]:
    store = LocalStore(folder / "store")
    known_ledger.write(store, known_ledger.pets())
    with monitoring.exporter([Task(name="pets", store=str(store.root))]) as address:
        yield int(address.split(":")[1])


@contextmanager
def watcher(folder: Path) -> Iterator[int]:
    with serving("127.0.0.1", 0, health.health_app(Health(["pets"]))) as port:
        yield port


@contextmanager
def training(folder: Path) -> Iterator[int]:
    port = free_port()
    live.serve_live_metrics("127.0.0.1", port)
    yield port


SERVERS = {
    exporter: ("/", "/metrics", "/healthz", "/tasks/dogs"),
    watcher: ("/metrics", "/healthz", "/readyz", "/nowhere"),
    training: ("/metrics",),
}


@pytest.fixture(params=SERVERS, ids=lambda server: server.__name__)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the port and the paths of a server. Each test runs with all servers of the project."""
    with request.param(tmp_path) as port:
        yield port, SERVERS[request.param]


class Answer(NamedTuple):
    """A response that has been read completely. Its connection is closed."""

    status: int
    headers: Message
    body: bytes

    def getheader(self, name: str) -> str | None:
        return self.headers.get(name)

    def read(self) -> bytes:
        return self.body


def send_request(port: int, path: str, method: str = "GET", headers: Iterable[tuple[str, str]] = ()) -> Answer:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


def ok(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return reply(start_response, "200 OK", "text/plain", b"ok\n")


def dial(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(data)
    return connection


def test_server_answers_only_get_and_head(server: tuple[int, tuple[str, ...]]) -> None:
    port, paths = server
    for path in paths:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
            answer = send_request(port, path, method)
            assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")
        read, head = send_request(port, path), send_request(port, path, "HEAD")
        assert head.status == read.status
        assert head.read() == b""
        assert len(read.read()) > 0 or path == "/metrics"  # a training has no metrics before it starts


def test_replies_forbid_scripts_and_caching(server: tuple[int, tuple[str, ...]]) -> None:
    port, paths = server
    for answer in (*(send_request(port, path) for path in paths), send_request(port, paths[0], "POST")):
        expected = {
            "Content-Security-Policy": f"{content_policy()}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Server": "retrain",
        }
        assert {name: answer.getheader(name) for name in expected} == expected


def test_request_longer_than_allowed_is_refused(server: tuple[int, tuple[str, ...]]) -> None:
    port, paths = server
    long = ("X-Long", "a" * REQUEST_BYTES)
    assert send_request(port, paths[0], headers=[long]).status == 431
    assert send_request(port, f"/{'a' * REQUEST_BYTES}").status == 431
    many = b"GET / HTTP/1.0\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(REQUEST_BYTES // 8))
    with dial(port, many + b"\r\n") as connection:
        assert connection.recv(1000).split()[1] == b"431"
    assert send_request(port, paths[0]).status in (200, 503)


def test_request_body_is_refused_unread() -> None:
    with serving("127.0.0.1", 0, ok) as port, dial(port, b"GET / HTTP/1.0\r\nContent-Length: 1000000\r\n\r\n") as sent:
        assert sent.recv(1000).split()[1] == b"413"


def test_slow_clients_do_not_delay_other_clients(server: tuple[int, tuple[str, ...]]) -> None:
    """There are ten times as many slow clients as threads. Each has sent only a part of its headers."""
    port, paths = server
    with ExitStack() as opened:
        for _ in range(10 * THREADS):
            opened.enter_context(dial(port, b"GET / HTTP/1.0\r\nX-Slow: "))
        assert send_request(port, paths[0]).status in (200, 503)


def test_requests_wait_while_all_threads_are_busy() -> None:
    go_on, busy = Event(), Semaphore(0)

    def wait(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        busy.release()
        go_on.wait(60)
        return ok(environ, start_response)

    with ExitStack() as opened, serving("127.0.0.1", 0, wait) as port:
        asked = [opened.enter_context(dial(port, b"GET / HTTP/1.0\r\n\r\n")) for _ in range(2 * THREADS)]
        for _ in range(THREADS):
            assert busy.acquire(timeout=60)
        assert not busy.acquire(blocking=False)
        go_on.set()
        assert {connection.recv(1000).split()[1] for connection in asked} == {b"200"}


def test_clients_that_disconnect_cause_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    def long(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return reply(start_response, "200 OK", "text/plain", b"a" * 10_000_000)

    with serving("127.0.0.1", 0, long) as port:
        for data in (b"", b"GET", b"GET / HTTP/1.0\r\nX", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00"):
            dial(port, data).close()
        assert len(send_request(port, "/").read()) == 10_000_000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("host", "others"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_server_listens_only_on_its_configured_address(host: str, others: bool) -> None:
    def is_open(address: str, port: int) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex((address, port)) == 0

    free = free_port()
    live.serve_live_metrics(host, free)
    with serving(host, 0, ok) as port:
        for listening in (port, free):
            assert is_open("127.0.0.1", listening)
            assert is_open("127.0.0.2", listening) is others


@pytest.mark.parametrize("without_ipv6", [False, True])
def test_server_listens_with_both_protocols(without_ipv6: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes of a cluster with IPv6 only connect to the pod's IPv6 address."""
    if without_ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with serving("::", 0, ok) as port:
        for host in ("127.0.0.1", *(() if without_ipv6 else ("[::1]",))):
            assert monitoring.get(f"http://{host}:{port}/") == "ok\n"


def test_server_listens_on_ipv6() -> None:
    with serving("::1", 0, ok) as port:
        assert monitoring.get(f"http://[::1]:{port}/") == "ok\n"
