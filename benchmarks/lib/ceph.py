"""A genuine S3 server for benchmarks, as for tests: Ceph's gateway, in processes of its own, its store in memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import boto3

from lib.report import ROOT

BUCKET = "benchmark"


@contextmanager
def serving(frontend: str = "tcp_nodelay=1") -> Iterator[str]:
    """Its address, while it runs; the environment then has the credentials, and it has the bucket.

    `frontend` is how it answers: Ceph's default is `tcp_nodelay=0`.
    """
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, str(ROOT / "tests" / "radosgw.py"), frontend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = next(iter(server.stdout or ()), "").strip()
            if not url:
                raise RuntimeError("no server: `apt-get install radosgw ceph-mon ceph-osd ceph-common`")
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
            yield url
        finally:
            server.terminate()
