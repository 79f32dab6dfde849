"""Run a server that answers like Kubeflow's Model Registry over HTTP.

If $RETRAIN_TEST_MODEL_REGISTRY has the address of a real registry, the same tests run against it (docs/testing.md).
`tests/tracking/test_registry_contract.py` tests the replies of the server itself.
"""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen

PREFIX = "/api/model_registry"
VERSIONS = ("v1", "v1alpha3")
REAL = "RETRAIN_TEST_MODEL_REGISTRY"
"""Environment variable with the address of a real server. Entries of a real server cannot be deleted, so tests use new
names."""
REGISTRIES = (*VERSIONS, "server") if os.environ.get(REAL) else VERSIONS
"""Parameters of tests that need a server: a version of the API for the simulated server, or `server` for a real one."""
KINDS = {
    "registered_models": "registered model",
    "model_versions": "model version",
    "artifacts": "model artifact",
    "model_artifacts": "model artifact",
}
Item = dict[str, Any]
Reply = tuple[int, Item | str]
NOT_FOUND: Reply = (404, "404 page not found\n")


def _problem(status: int, code: str, message: str) -> Reply:
    return status, {"code": code, "message": message}


@dataclass
class RegistryServer:
    """A simulated server, with its resources and the tokens that it received."""

    version: str
    """Version of the API that the server answers."""
    items: list[Item] = field(default_factory=list)
    """Resources, each with its kind and its parent's id."""
    tokens: list[str | None] = field(default_factory=list)
    """The Authorization header of every request."""
    time: int = 1_800_000_000_000
    lock: Lock = field(default_factory=Lock)

    def answer(self, method: str, path: str, body: Item) -> Reply:
        parts = urlsplit(path)
        prefix = f"{PREFIX}/{self.version}/"
        if not parts.path.startswith(prefix):
            return NOT_FOUND
        names, query = parts.path.removeprefix(prefix).split("/"), parse_qs(parts.query)
        if f"{names[0]}s" in KINDS:
            return self._find(KINDS[f"{names[0]}s"], {name: values[0] for name, values in query.items()})
        if names[0] not in KINDS:
            return NOT_FOUND
        if method == "PATCH":
            return self._change(KINDS[names[0]], names[1], body)
        if len(names) == 3:
            return self._within(method, names, body, query)
        if method != "POST":
            return NOT_FOUND
        if names[0] == "model_versions" and "registeredModelId" not in body:
            return _problem(422, "Bad Request", "required field 'registeredModelId' is zero value.")
        return self._create(KINDS[names[0]], body.get("registeredModelId"), body)

    def _within(self, method: str, names: list[str], body: Item, query: dict[str, list[str]]) -> Reply:
        kind = "model version" if names[2] == "versions" else "model artifact"
        if method == "GET":
            return 200, self._page(kind, names[1], query)
        if self._by_id("model version", names[1]) is None:
            return _problem(404, "Not Found", f"no model version found for id {names[1]}: not found")
        return self._create(kind, names[1], body)

    def _by_id(self, kind: str, identity: str) -> Item | None:
        return next((item for item in self.items if (item["kind"], item["id"]) == (kind, identity)), None)

    def _named(self, kind: str, parent: str | None, name: str) -> Item | None:
        wanted = (kind, parent, name)
        return next((item for item in self.items if (item["kind"], item["parent"], item["name"]) == wanted), None)

    def _find(self, kind: str, query: dict[str, str]) -> Reply:
        name, parent = query.get("name", ""), query.get("parentResourceId")
        if kind != "registered model" and parent is None:
            message = "invalid parameters call, supply either (name and parentResourceId), or externalId: bad request"
            return _problem(400, "Bad Request", message)
        found = self._named(kind, parent, name)
        where = f", parentResourceId={parent}" if parent else ""
        message = f"no {kind}s found for name={name}{where}, externalId=: not found"
        return (200, _shown(found)) if found else _problem(404, "Not Found", message)

    def _page(self, kind: str, parent: str, query: dict[str, list[str]]) -> Item:
        after = int(base64.b64decode(query.get("nextPageToken", ["MA=="])[0]).partition(b":")[0])
        size = int(query.get("pageSize", ["0"])[0])
        found = [item for item in self.items if (item["kind"], item["parent"]) == (kind, parent)]
        left = [item for item in found if int(item["id"]) > after]
        shown = left[:size] if size else left
        last = shown[-1]["id"] if len(shown) < len(left) else None
        token = base64.b64encode(f"{last}:{last}".encode()).decode() if last else ""
        return {"items": [_shown(item) for item in shown], "nextPageToken": token, "pageSize": size, "size": len(shown)}

    def _create(self, kind: str, parent: str | None, body: Item) -> Reply:
        if self._named(kind, parent, body["name"]):
            return _problem(409, "Conflict", f"{kind} with name {body['name']} already exists: conflict")
        self.time += 1
        item: Item = {"customProperties": {}} | ({} if kind == "model artifact" else {"state": "LIVE"}) | body
        item.update(id=str(len(self.items) + 1), kind=kind, parent=parent)
        item.update(dict.fromkeys(("createTimeSinceEpoch", "lastUpdateTimeSinceEpoch"), str(self.time)))
        self.items.append(item)
        return 201, _shown(item)

    def _change(self, kind: str, identity: str, body: Item) -> Reply:
        item = self._by_id(kind, identity)
        if item is None:
            return _problem(404, "Not Found", f"no {kind} found for id {identity}: not found")
        self.time += 1
        item |= {"state": "LIVE"} | body | {"lastUpdateTimeSinceEpoch": str(self.time)}
        return 200, _shown(item)


def _shown(item: Item) -> Item:
    """Return the server's description of a resource."""
    return {name: value for name, value in item.items() if name not in ("kind", "parent")}


@contextmanager
def serving_registry(version: str = VERSIONS[0]) -> Iterator[tuple[str, RegistryServer]]:
    """Run a simulated server. Yield its address and the server."""
    registry = RegistryServer(version)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(registry))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def open_registry(kind: str) -> Iterator[str]:
    """Yield the address of the server with this name in `REGISTRIES`."""
    if kind == "server":
        yield os.environ[REAL]
        return
    with serving_registry(kind) as (address, _):
        yield address


def _handler(registry: RegistryServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with registry.lock:
                registry.tokens.append(self.headers.get("Authorization"))
                status, reply = registry.answer(self.command, self.path, json.loads(content or "{}"))
            body = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    return Handler


def ask(address: str, method: str, path: str, body: Item | None = None, **query: str) -> tuple[int, Any]:
    """Send a request by the first API version that the server knows, and return the status and content of the reply.

    Content that is not JSON is returned unchanged.
    """
    data = None if body is None else json.dumps(body).encode()
    for version in VERSIONS:
        url = f"{address}{PREFIX}/{version}/{path}" + (f"?{urlencode(query)}" if query else "")
        request = Request(url, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=60) as reply:
                status, content = reply.status, reply.read().decode()
        except HTTPError as error:
            status, content = error.code, error.read().decode()
        if (status, content) != NOT_FOUND:
            return status, json.loads(content)
    return NOT_FOUND
