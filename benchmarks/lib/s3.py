"""Start S3 servers (Ceph's and moto's) in separate processes. The measured processor time excludes them."""

import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import boto3

from lib.report import ROOT

BUCKET = "benchmark"


@contextmanager
def serving_ceph(frontend: str = "tcp_nodelay=1") -> Iterator[str]:
    """Start Ceph's gateway with a store in memory and the bucket, and yield its address.

    Afterwards, the credentials are in the environment. `frontend` sets options of the gateway. Ceph's own default is
    `tcp_nodelay=0`.
    """
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "support.radosgw", frontend]
    with subprocess.Popen(command, cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True) as server:
        try:
            url = next(iter(server.stdout or ()), "").strip()
            if not url:
                raise RuntimeError(
                    "Ceph's gateway did not start. If it is not installed, run "
                    "`apt-get install radosgw ceph-mon ceph-osd ceph-common`"
                )
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
            yield url
        finally:
            server.terminate()


KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def serving_moto(bucket: str) -> Iterator[str]:
    """Serve an empty bucket with moto, and yield the address. Set address and credentials in the environment."""
    fresh = multiprocessing.get_context("spawn")
    receiver, sender = fresh.Pipe()
    server = fresh.Process(target=_serve, args=(sender,), daemon=True)
    server.start()
    address = receiver.recv()
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
