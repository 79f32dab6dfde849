"""Find programs that tests start, and give them ports and environments."""

import errno
import os
import shutil
import socket
import sys
from random import SystemRandom
from typing import NoReturn

import pytest

PORTS = range(10_000, 32_768)
"""Ports below the range from which Linux chooses ports for clients and for servers on port 0. From that range, Linux
could give a port to another process between the check and the use."""
AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "MOTO_S3_DEFAULT_MAX_KEYS": "100",  # keys in a page of a listing; AWS's 1000 would need slow tests
}
"""The environment in which boto3 connects only to a server on loopback."""


def need(command: str, package: str) -> str:
    """Return the path of a program. If it is missing, skip the test and say what to install. On CI, fail the test."""
    path = shutil.which(command)
    if path is None:
        skip_or_fail(f"{command} is not installed: apt-get install {package}")
    return path


def skip_or_fail(message: str) -> NoReturn:
    """Skip the test because a program is missing. On CI every program must be installed, so fail the test there."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def python_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a Python subprocess that can import the same modules as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


def free_port() -> int:
    """Return a free port. The system gives it to no other process."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
