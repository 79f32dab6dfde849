"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from support.aws import AWS
from support.s3_server import serving_s3

from retrain.store import LocalStore, ObjectStore, open_store


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server on loopback, spoken to over real HTTP."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in AWS.items():
            environment.setenv(name, value)
        with serving_s3() as address:
            yield address


@pytest.fixture
def bucket(s3: str) -> str:
    """A new, empty bucket."""
    name = f"test-{uuid4().hex}"
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_store(f"s3://{request.getfixturevalue('bucket')}/some/prefix", request.getfixturevalue("s3"))
