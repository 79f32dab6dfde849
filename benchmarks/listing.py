"""Measure the processor time that listing many objects takes, by `retrain` and by boto3 with its defaults.

A server in another process replies with stored pages of 1,000 objects, as S3 would. The two alternate.
"""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlparse

import boto3
from lib.report import parser, report
from lib.s3 import BUCKET

from retrain.store import open_store

PAGE = 1000
"""Largest number of objects in a page of S3."""
OBJECT = (
    "<Contents><Key>task/drops/week-1/images/{number:07}.png</Key><LastModified>2026-11-28T12:00:00.000Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>1234</Size><StorageClass>STANDARD</StorageClass>"
    "</Contents>"
)


def page_of(number: int, pages: int) -> bytes:
    """Return the reply of S3 with a page's objects."""
    objects = "".join(OBJECT.format(number=number * PAGE + index) for index in range(PAGE))
    after = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if number + 1 < pages else ""
    cut = f"<IsTruncated>{str(bool(after)).lower()}</IsTruncated>{after}"
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{namespace}"><Name>{BUCKET}</Name>{cut}{objects}</ListBucketResult>'.encode()


def serve(port: Connection, pages: int) -> None:
    """Serve the pages on a free port, which is sent first."""
    replies = [page_of(number, pages) for number in range(pages)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlparse(self.path).query).get("continuation-token", ["0"])
            reply = replies[int(asked[0])]
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def serving(pages: int) -> Iterator[str]:
    """Yield the URL of a server with this number of pages."""
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    server = get_context("spawn").Process(target=serve, args=(sender, pages), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        server.kill()


def main() -> None:
    """Run the measurements, and report them."""
    options = parser(__doc__)
    options.add_argument("--pages", type=int, default=50)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    taken: dict[str, list[float]] = {"boto3": [], "retrain": []}
    with serving(chosen.pages) as url:
        store = open_store(f"s3://{BUCKET}", url)
        pages = boto3.client("s3", endpoint_url=url).get_paginator("list_objects_v2")
        for _ in range(chosen.rounds):
            for name, seconds in taken.items():
                began = time.process_time()
                if name == "retrain":
                    count = sum(1 for _ in store.list())
                else:
                    count = sum(len(page["Contents"]) for page in pages.paginate(Bucket=BUCKET))
                seconds.append(time.process_time() - began)
                assert count == chosen.pages * PAGE
    figures = {f"{name}, processor seconds": round(statistics.median(each), 2) for name, each in taken.items()}
    report({"objects": chosen.pages * PAGE, "rounds": chosen.rounds, **figures}, chosen.output)


if __name__ == "__main__":
    main()
