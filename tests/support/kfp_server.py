"""Run a server that answers like the API of Kubeflow Pipelines (v2beta1) over HTTP and records the requests.

Its behaviour follows the source of the API server 2.17.0. Its replies were compared with the replies of a real server
(docs/evidence/kubeflow.md). Times are whole seconds. Lists are sorted by time, and by id within a second. The end of
an active run is given as 1970. Filters are decoded once more than other parameters. The server refuses an experiment,
a pipeline or a version of a pipeline if its name is taken. It does not refuse a run for this reason.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit
from uuid import uuid4

PREFIX = "/apis/v2beta1/"
IDS = {
    "experiments": "experiment_id",
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
    "pipelines": "pipeline_id",
    "versions": "pipeline_version_id",
}
LISTS = {
    "experiments": "experiments",
    "runs": "runs",
    "recurringruns": "recurringRuns",
    "pipelines": "pipelines",
    "versions": "pipeline_versions",
}
"""Names of the lists in replies, as the client of KFP 2.17 reads them."""

UNIQUE = ("experiments", "pipelines", "versions")
"""Kinds of objects whose names must be unique."""

Item = dict[str, Any]
Reply = tuple[int, Item | str]
"""Status and body: JSON, or a text."""

NO_IDENTITY = "Failed to check authorization. User identity is empty in the request header"
NO_TOKEN: Reply = (
    401,
    {
        "code": 16,
        "message": "List experiments failed: Failed to authorize with API: Failed to authorize with API: "
        f"Unauthenticated: {NO_IDENTITY}: Unauthenticated: Request header error: there is no user identity header.: "
        "Request header error: there is no user identity header.",
        "details": [{"@type": "type.googleapis.com/google.rpc.Status", "code": 16, "message": NO_IDENTITY}],
    },
)
"""The reply of a real multi-user server to a request without a token."""

NO_PERMISSION_TO_UPLOAD: Reply = (
    400,
    {
        "error_message": "Failed to create a pipeline version",
        "error_details": "Failed to create a pipeline version\nthe stack of\n\tserver/pipeline_upload_server.go:315",
    },
)
"""The reply of a real multi-user server to an upload without the permission to create pipelines."""

TOO_LONG: Reply = (
    500,
    {
        "code": 13,
        "message": "Failed to create a experiment due to conversion error: Experiment.Name length cannot exceed 128",
        "details": [{"@type": "type.googleapis.com/google.rpc.Status", "code": 13, "message": "Internal Server Error"}],
    },
)
"""The reply of a real multi-user server to an experiment's name of 129 letters."""

PAGE: Reply = (200, "<!doctype html><title>Sign in</title>")
"""The reply of a website to every request."""


@dataclass
class KfpServer:
    """A simulated server, with its objects and the requests that it received."""

    url: str = ""
    experiments: list[Item] = field(default_factory=list)
    runs: list[Item] = field(default_factory=list)
    recurringruns: list[Item] = field(default_factory=list)
    pipelines: list[Item] = field(default_factory=list)
    versions: list[Item] = field(default_factory=list)
    """Versions of pipelines, with the packages that were uploaded."""
    tokens: list[str | None] = field(default_factory=list)
    """The Authorization header of every request."""
    refuses: dict[str, Reply] = field(default_factory=dict)
    """Replies by a part of a path. The server gives the reply to each request whose path contains this part."""
    down: bool = False
    """Whether the server cuts every connection."""
    refused: int = 0
    """Number of connections that it has cut."""
    lose_reply: bool = False
    """Whether the server executes the next POST and then cuts the connection instead of answering."""
    meanwhile: dict[str, Callable[[], object]] = field(default_factory=dict)
    """Functions that are called once, during the next POST whose path ends with the key."""
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """The server's time."""
    tick: timedelta = timedelta(seconds=1)
    """Time by which the clock advances with each created object."""
    lock: Lock = field(default_factory=Lock)

    def items(self, kind: str) -> list[Item]:
        found: list[Item] = getattr(self, kind)
        return found

    @property
    def names(self) -> list[str]:
        """Return the names of the runs, in the order of their submission."""
        return [run["display_name"] for run in self.runs]

    def create(self, kind: str, item: Item) -> Item:
        self.now += self.tick
        created = {**item, IDS[kind]: str(uuid4()), "created_at": f"{self.now:%Y-%m-%dT%H:%M:%SZ}"}
        if kind in ("pipelines", "versions"):
            created["name"] = item["display_name"]
        if kind == "runs":
            created |= {"state": "PENDING", "finished_at": "1970-01-01T00:00:00Z"}
        self.items(kind).append(created)
        return created

    def find(self, kind: str, query: dict[str, list[str]]) -> list[Item]:
        """Return the items of an experiment or a pipeline that match a filter, oldest first."""
        found = [item for item in self.items(kind) if item.get("experiment_id") in query.get("experiment_id", [None])]
        if kind in ("experiments", "pipelines"):
            found = self.items(kind)
        if kind == "versions":
            found = [item for item in self.versions if item["pipeline_id"] == query["pipeline_id"][0]]
        for predicate in json.loads(unquote_plus(query.get("filter", [""])[0]) or "{}").get("predicates", ()):
            assert predicate["operation"] == "EQUALS"
            found = [item for item in found if item[predicate["key"]] == predicate["stringValue"]]
        return sorted(found, key=lambda item: (item["created_at"], item[IDS[kind]]))

    def add(self, kind: str, item: Item) -> Reply:
        """Create an item, unless its name is taken."""
        name, within = item["display_name"], item.get("pipeline_id")
        there = [each for each in self.items(kind) if not within or each["pipeline_id"] == within]
        if kind in UNIQUE and name in [each.get("name", each["display_name"]) for each in there]:
            message = f"Failed to create. The name {name} already exists. Please specify a new name"
            return 409, {"code": 6, "message": message, "details": [{"code": 6, "message": message}]}
        return 200, without_package(self.create(kind, item))

    def upload_version(self, query: dict[str, list[str]], package: bytes) -> Reply:
        """Store an uploaded package as a version of a pipeline."""
        version = {"display_name": query["name"][0], "pipeline_id": query["pipelineid"][0]}
        status, reply = self.add("versions", {**version, "package": package.decode()})
        message = "Failed to create a pipeline version"
        return status, reply if status == 200 else {"error_message": message, "error_details": f"{message}\n a stack"}

    def answer(self, method: str, path: str, content: bytes) -> Reply:
        parts = urlsplit(path)
        kind, _, item_id = parts.path.removeprefix(PREFIX).partition("/")
        for text, reply in self.refuses.items():
            if text in path:
                return reply
        if kind == "healthz":
            built = {"commit_sha": "unknown", "tag_name": "unknown"}
            return 200, {**built, "multi_user": False, "pipeline_store": "database"}
        if kind not in IDS:
            return 404, "404 page not found\n"
        query = parse_qs(parts.query)
        if item_id == "upload_version":
            return self.upload_version(query, content)
        body = json.loads(content or "{}")
        if item_id.endswith("/versions"):
            kind, query = "versions", {**query, "pipeline_id": [item_id.removesuffix("/versions")]}
        if method == "POST":
            return self.add(kind, body)
        if method == "DELETE":
            self.items(kind)[:] = [item for item in self.items(kind) if item[IDS[kind]] != item_id]
            return 200, {}
        found = [without_package(item) for item in self.find(kind, query)]
        return 200, {LISTS[kind]: found, "total_size": len(found)} if found else {}


def without_package(item: Item) -> Item:
    """Return the server's description of an item."""
    return {key: value for key, value in item.items() if key != "package"}


@contextmanager
def serving() -> Iterator[KfpServer]:
    """Run a server on loopback and yield it."""
    kfp = KfpServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kfp))
    kfp.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield kfp
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(kfp: KfpServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.close_connection = True
            if kfp.down:
                kfp.refused += 1
                return
            for end in list(kfp.meanwhile):
                if self.command == "POST" and urlsplit(self.path).path.endswith(end):
                    kfp.meanwhile.pop(end)()
            with kfp.lock:
                kfp.tokens.append(self.headers.get("Authorization"))
                status, reply = kfp.answer(self.command, self.path, body)
                cut = kfp.lose_reply and self.command == "POST"
                kfp.lose_reply &= not cut
            if not cut:
                self.send(status, reply)

        def send(self, status: int, reply: Item | str) -> None:
            text = isinstance(reply, str)
            body = (reply if text else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    return Handler
