"""Serve from memory the part of S3 and SQS that the watcher uses. A request takes only as long as sending its reply."""

import hashlib
import json
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 1000
ITEM = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-21T00:00:00.000Z</LastModified>"
    "<ETag>&quot;00000000000000000000000000000000&quot;</ETag><Size>{size}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)
"""One object of a listing with all fields that AWS sends, because parsing them takes time."""


class Aws:
    """One bucket's objects and one queue's messages."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.messages: deque[str] = deque()
        self.taken: set[str] = set()
        self.lock = Lock()

    def fill(self, objects: dict[str, bytes]) -> None:
        """Replace all objects of the bucket."""
        self.objects, self.keys = objects, sorted(objects)

    def put(self, key: str, body: bytes, none_match: str | None, match: str | None) -> bool:
        """Write one object if the conditions of the request are met, and return whether it was written."""
        current = self.objects.get(key)
        if none_match and current is not None:
            return False
        if match and (current is None or match.strip('"') != etag(current).strip('"')):
            return False
        if current is None:
            insort(self.keys, key)
        self.objects[key] = body
        return True

    def remove(self, key: str) -> None:
        """Remove one object, if it is there."""
        if self.objects.pop(key, None) is not None:
            self.keys.remove(key)

    def page(self, prefix: str, after: str) -> str:
        """Return a page of a listing, as XML."""
        start = bisect_right(self.keys, after) if after else bisect_left(self.keys, prefix)
        keys = [key for key in self.keys[start : start + PAGE] if key.startswith(prefix)]
        more = len(keys) == PAGE
        items = "".join(ITEM.format(key=quote(key), size=len(self.objects[key])) for key in keys)
        token = f"<NextContinuationToken>{quote(keys[-1])}</NextContinuationToken>" if more else ""
        flag = str(more).lower()
        return f"<ListBucketResult><IsTruncated>{flag}</IsTruncated>{token}{items}</ListBucketResult>"

    def folders(self, prefix: str) -> str:
        """Return the folders directly below a prefix, as a listing with one page."""
        names = sorted({key.removeprefix(prefix).partition("/")[0] for key in self.keys if key.startswith(prefix)})
        items = "".join(f"<CommonPrefixes><Prefix>{quote(prefix + n)}/</Prefix></CommonPrefixes>" for n in names)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"

    def receive(self, _: dict[str, object]) -> dict[str, object]:
        """Return up to ten messages. They are not delivered again."""
        bodies = [self.messages.popleft() for _ in range(min(10, len(self.messages)))]
        return {"Messages": [{"Body": body, "ReceiptHandle": "1", "MessageId": "1"} for body in bodies]}

    def delete(self, request: dict[str, object]) -> dict[str, object]:
        """Return success. A message is already removed when it is received."""
        return {"Successful": request["Entries"], "Failed": []}


@contextmanager
def serving(aws: Aws) -> Iterator[str]:
    """Serve the bucket and the queue within the context, and yield the server's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"aws": aws}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def etag(body: bytes) -> str:
    """Return an object's ETag."""
    return f'"{hashlib.md5(body).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    aws: Aws
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body are sent together, without delay
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = self.key()
        with self.aws.lock:
            if "delimiter" in query:
                self.reply(200, self.aws.folders(query["prefix"]).encode())
            elif "list-type" in query:
                after = unquote(query.get("continuation-token", ""))
                self.reply(200, self.aws.page(query["prefix"], after).encode())
            elif key in self.aws.objects:
                self.reply(200, self.aws.objects[key])
            else:
                self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_PUT(self) -> None:
        body = self.body()
        with self.aws.lock:
            put = self.aws.put(self.key(), body, self.headers.get("If-None-Match"), self.headers.get("If-Match"))
        if put:
            self.reply(200, b"", etag(body))
        else:
            self.reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    def do_DELETE(self) -> None:
        with self.aws.lock:
            self.aws.remove(self.key())
        self.reply(204, b"")

    def do_POST(self) -> None:
        action = self.headers["X-Amz-Target"].rpartition(".")[2]
        request = json.loads(self.body())
        with self.aws.lock:
            answer = self.aws.receive(request) if action == "ReceiveMessage" else self.aws.delete(request)
        self.reply(200, json.dumps(answer).encode())

    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bench/")

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        size, _, rest = data.partition(b"\r\n")
        return rest[: int(size.split(b";")[0], 16)]

    def reply(self, status: int, body: bytes, tag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", tag or etag(body))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
