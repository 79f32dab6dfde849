"""A server for tests that records and answers as Kubeflow Pipelines' API does (v2beta1), over real HTTP.

What differs from one release to the next was read in the source of its API server 2.17.0, and its replies were compared
with those of a real one (docs/evidence/kubeflow.md): times are whole seconds, runs of one second are listed by their
id, and an end that is not there yet is 1970.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit
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
"""What lists are called in replies, as the client of KFP 2.17 reads them."""

Item = dict[str, Any]

NO_IDENTITY = "Failed to check authorization. User identity is empty in the request header"
NO_TOKEN: tuple[int, Item] = (
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


@dataclass
class KfpServer:
    """What was asked of the server, and what it holds."""

    url: str = ""
    experiments: list[Item] = field(default_factory=list)
    runs: list[Item] = field(default_factory=list)
    recurringruns: list[Item] = field(default_factory=list)
    pipelines: list[Item] = field(default_factory=list)
    versions: list[Item] = field(default_factory=list)
    """Versions of pipelines, with the packages that were uploaded."""
    tokens: list[str | None] = field(default_factory=list)
    """The Authorization header of every request."""
    refuses: tuple[int, Item] | None = None
    """Its answer to every request but for its health: the status and the body."""
    down: bool = False
    """Cuts every connection."""
    refused: int = 0
    """How many it has cut so."""
    lose_reply: bool = False
    """Does what is asked by the next POST, and cuts the connection instead of answering."""
    meanwhile: Callable[[], object] | None = None
    """What happens, once, while the next run's submission is on its way."""
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """The server's time."""
    tick: timedelta = timedelta(seconds=1)
    """How far it moves with everything that is created."""
    lock: Lock = field(default_factory=Lock)

    def items(self, kind: str) -> list[Item]:
        found: list[Item] = getattr(self, kind)
        return found

    @property
    def names(self) -> list[str]:
        """Of the runs, as they were submitted."""
        return [run["display_name"] for run in self.runs]

    def create(self, kind: str, item: Item) -> Item:
        self.now += self.tick
        created = {**item, IDS[kind]: str(uuid4()), "created_at": f"{self.now:%Y-%m-%dT%H:%M:%SZ}"}
        if kind == "runs":
            created |= {"state": "PENDING", "finished_at": "1970-01-01T00:00:00Z"}
        self.items(kind).append(created)
        return created

    def find(self, kind: str, query: dict[str, list[str]]) -> list[Item]:
        """Return the items of an experiment that fulfil a filter's predicates, newest first unless asked otherwise."""
        found = [item for item in self.items(kind) if item.get("experiment_id") in query.get("experiment_id", [None])]
        if kind in ("experiments", "pipelines"):
            found = self.items(kind)
        if kind == "versions":
            found = [item for item in self.versions if item["pipeline_id"] == query["pipeline_id"][0]]
        for predicate in json.loads(query.get("filter", ["{}"])[0] or "{}").get("predicates", ()):
            assert predicate["operation"] in ("EQUALS", 1)  # by name, or by number as the client itself does
            found = [item for item in found if item[predicate["key"]] == predicate["stringValue"]]
        found = sorted(found, key=lambda item: (item["created_at"], item[IDS[kind]]))
        return found if query.get("sort_by") == ["created_at"] else found[::-1]

    def upload(self, query: dict[str, list[str]], package: bytes) -> Item:
        """Store an uploaded package. A new pipeline's first version has the pipeline's name."""
        name, given = query["name"][0], query.get("pipelineid")
        pipeline = {"pipeline_id": given[0]} if given else self.create("pipelines", {"display_name": name})
        version = {"display_name": name, "pipeline_id": pipeline["pipeline_id"], "package": package.decode()}
        created = self.create("versions", version)
        return {key: value for key, value in (created if given else pipeline).items() if key != "package"}

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, Item]:
        parts = urlsplit(path)
        kind, _, item_id = parts.path.removeprefix(PREFIX).partition("/")
        if kind == "healthz":
            built = {"commit_sha": "unknown", "tag_name": "unknown"}
            return 200, {**built, "multi_user": False, "pipeline_store": "database"}
        if self.refuses:
            return self.refuses
        if kind not in IDS:
            return 404, {"error": path}
        query = parse_qs(parts.query)
        if item_id.startswith("upload"):
            return 200, self.upload(query, content)
        body = json.loads(content or "{}")
        if item_id.endswith("/versions"):
            kind, query = "versions", {**query, "pipeline_id": [item_id.removesuffix("/versions")]}
        if method == "POST":
            return 200, self.create(kind, body)
        if method == "DELETE":
            self.items(kind)[:] = [item for item in self.items(kind) if item[IDS[kind]] != item_id]
            return 200, {}
        found = [{key: value for key, value in item.items() if key != "package"} for item in self.find(kind, query)]
        return 200, {LISTS[kind]: found, "total_size": len(found)} if found else {}


@contextmanager
def serving() -> Iterator[KfpServer]:
    """Yield a server on loopback."""
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
            if kfp.meanwhile and (self.command, self.path) == ("POST", f"{PREFIX}runs"):
                happen, kfp.meanwhile = kfp.meanwhile, None
                happen()
            with kfp.lock:
                kfp.tokens.append(self.headers.get("Authorization"))
                status, reply = kfp.answer(self.command, self.path, body)
                cut = kfp.lose_reply and self.command == "POST"
                kfp.lose_reply &= not cut
            if not cut:
                self.send(status, json.dumps(reply).encode())

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    return Handler
