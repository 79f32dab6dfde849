"""moto's S3 server in a process of its own: what is measured does not share its time."""

import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import boto3

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def serving(bucket: str) -> Iterator[str]:
    """Serve an empty bucket within; yields the address, which is in the environment with credentials."""
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe()
    server = fresh.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    address = ours.recv()
    os.environ |= {**KEYS, "AWS_ENDPOINT_URL": address}
    boto3.client("s3").create_bucket(Bucket=bucket)
    try:
        yield address
    finally:
        server.terminate()
        server.join()


def _serve(connection: Connection) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    connection.send("http://{}:{}".format(*server.get_host_and_port()))
    connection.poll(None)  # until this process is ended
