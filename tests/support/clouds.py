"""Start servers of Google Cloud Storage and Azure on loopback, and create empty stores on them.

The server for GCS is moto's S3 server, extended by the generations of GCS. obstore uses the XML API of GCS, and this
API has the requests and replies of S3. It adds the generation, a number that grows with each write of an object.
Replies contain the generation, and a write can require a certain generation. Generation 0 means that the object does
not exist. Two other servers cannot be used. fake-gcs-server accepts no uploads by the XML API. Google's own
storage-testbench has no listings in the XML API, and no package registry has it. Eleven conditional and plain writes
had the same results on this server and on storage-testbench 0.45.

The server for Azure is Azurite, Microsoft's own emulator of Azure Blob Storage. `make test` installs it.
"""

import base64
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from retrain.store import ObjectStore, open_store
from support.faulty_s3 import Fault, faulty
from support.monitoring import wait_for
from support.programs import free_port, need, skip_or_fail
from support.s3_server import serving_s3

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REFUSAL = b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code><Message>Other generation.</Message></Error>"
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""Authorization header that moto needs in requests for objects that are not public. moto does not verify it."""
CONDITION = "HTTP_X_GOOG_IF_GENERATION_MATCH"

KEY = json.dumps({"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""})
GCS = {"GOOGLE_SERVICE_ACCOUNT_KEY": KEY, "NO_PROXY": "127.0.0.1"}
"""The environment in which obstore asks no server for a token."""

PROGRAM = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCOUNT = "retrain"
AZURE = {
    "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
    "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"a key of the tests").decode(),
    "NO_PROXY": "127.0.0.1",
}
"""The environment in which obstore connects to Azurite."""


class Generations:
    """An application that gives each object a generation. It handles one request at a time."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self._lock = app, Lock()
        self._numbers = count(1_700_000_000_000_000)
        self._current: dict[str, int] = {}

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ["HTTP_AUTHORIZATION"] = SIGNED
        uri = quote(environ["PATH_INFO"].encode("latin-1")) + ("?" if environ["QUERY_STRING"] else "")
        environ["RAW_URI"] = environ["REQUEST_URI"] = uri + environ["QUERY_STRING"]  # moto does not decode %2F
        with self._lock:
            return self._answer(environ, start_response)

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        wanted = environ.get(CONDITION)
        if wanted is not None and int(wanted) != self._current.get(path, 0):
            start_response("412 Precondition Failed", [("Content-Type", "application/xml")])
            return [REFUSAL]
        replies: list[tuple[str, list[tuple[str, str]]]] = []
        body = list(self._app(environ, lambda status, headers, *_: _keep(replies, status, headers)))
        [(status, headers)] = replies
        if status.startswith("2"):
            self._update_generation(path, method, parse_qs(environ["QUERY_STRING"], keep_blank_values=True))
        if path in self._current:
            headers.append(("x-goog-generation", str(self._current[path])))
        start_response(status, headers)
        return body

    def _update_generation(self, path: str, method: str, query: dict[str, list[str]]) -> None:
        written = (method == "PUT" and not query) or (method == "POST" and "uploadId" in query)
        if written:
            self._current[path] = next(self._numbers)
        elif method == "DELETE" and not query:
            self._current.pop(path, None)


def _keep(
    replies: list[tuple[str, list[tuple[str, str]]]], status: str, headers: list[tuple[str, str]]
) -> Callable[[bytes], object]:
    replies.append((status, list(headers)))
    return lambda _: None


@contextmanager
def serving_gcs() -> Iterator[str]:
    """Run the server for GCS, and yield its address. A PUT of a bucket's name creates the bucket."""
    with serving_s3(Generations) as address:
        yield address


@contextmanager
def serving_azure(folder: Path) -> Iterator[str]:
    """Run Azurite, and yield the address of an account without containers. Without Azurite, see `skip_or_fail`."""
    if not PROGRAM.exists():
        skip_or_fail("no Azurite: `make test` installs it")
    port = free_port()
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [need("node", "nodejs"), str(PROGRAM), *options, "--blobPort", str(port)]
    environment = os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{AZURE['AZURE_STORAGE_ACCOUNT_KEY']}"}
    log = folder / "azurite.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder) as server,
    ):
        try:
            wait_for(lambda: server.poll() is not None or b"successfully listens" in log.read_bytes(), "Azurite")
            assert server.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}/{ACCOUNT}"
        finally:
            server.terminate()


def create_container(address: str, name: str) -> None:
    """Create a container by a request that is signed with the account's key. obstore has no call for this."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signed = "\n".join(["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items()), resource])
    digest = hmac.digest(base64.b64decode(AZURE["AZURE_STORAGE_ACCOUNT_KEY"]), signed.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    with urlopen(Request(f"{address}/{name}?restype=container", method="PUT", headers=headers)) as reply:
        assert reply.status == 201


def cloud_store(scheme: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the address of an empty store of the kind `gs` or `az`, and the address of its server."""
    name = f"test-{uuid4().hex}"
    address: str = request.getfixturevalue({"gs": "gcs", "az": "azure"}[scheme])
    if scheme == "gs":
        urlopen(Request(f"{address}/{name}", method="PUT")).close()
    else:
        create_container(address, name)
    return f"{scheme}://{name}/some/prefix", address


@contextmanager
def disturbed(location: tuple[str, str], fault: Fault) -> Iterator[ObjectStore]:
    """Open a store through a proxy that injects a fault."""
    url, server = location
    with faulty(server, fault) as address:
        yield open_store(url, address + urlsplit(server).path)
