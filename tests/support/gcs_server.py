"""Google Cloud Storage on loopback: moto's S3 server, made to keep the generations that GCS promises.

GCS's XML API, which obstore speaks, has S3's requests and replies. What it adds is the generation: a number that grows
with each write of an object, that replies name, and that a write can be made to depend on; 0 stands for no object.

fake-gcs-server takes no uploads by that API, and Google's own storage-testbench knows no listings in it and is in no
package registry. Eleven conditional and plain writes had the same outcomes here and in storage-testbench 0.45.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from support.s3_server import serving_s3

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REFUSAL = b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code><Message>Other generation.</Message></Error>"
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""What moto wants to see of requests for objects that are not public; it does not verify it."""
CONDITION = "HTTP_X_GOOG_IF_GENERATION_MATCH"

KEY = json.dumps({"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""})
GCS = {"GOOGLE_SERVICE_ACCOUNT_KEY": KEY, "NO_PROXY": "127.0.0.1"}
"""The environment in which obstore asks no server for a token."""


class Generations:
    """Gives each object its generation, and lets one write at a time compare it."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self._lock = app, Lock()
        self._numbers = count(1_700_000_000_000_000)
        self._current: dict[str, int] = {}

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ["HTTP_AUTHORIZATION"] = SIGNED
        uri = quote(environ["PATH_INFO"].encode("latin-1")) + ("?" if environ["QUERY_STRING"] else "")
        environ["RAW_URI"] = environ["REQUEST_URI"] = uri + environ["QUERY_STRING"]  # moto takes %2F as it is
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
            self._note(path, method, parse_qs(environ["QUERY_STRING"], keep_blank_values=True))
        if path in self._current:
            headers.append(("x-goog-generation", str(self._current[path])))
        start_response(status, headers)
        return body

    def _note(self, path: str, method: str, query: dict[str, list[str]]) -> None:
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
    """Serve within; yields the address. A bucket is made by a PUT of its name."""
    with serving_s3(Generations) as address:
        yield address
