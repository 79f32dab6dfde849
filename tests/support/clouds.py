"""Empty stores in Google Cloud Storage and Azure, on the servers that the fixtures `gcs` and `azure` start."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from retrain.store import ObjectStore, open_store
from support.azurite import create_container
from support.faulty_s3 import Fault, faulty


def cloud_store(scheme: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the address of an empty store of a kind, `gs` or `az`, and that of its server."""
    name = f"test-{uuid4().hex}"
    address: str = request.getfixturevalue({"gs": "gcs", "az": "azure"}[scheme])
    if scheme == "gs":
        urlopen(Request(f"{address}/{name}", method="PUT")).close()
    else:
        create_container(address, name)
    return f"{scheme}://{name}/some/prefix", address


@contextmanager
def disturbed(place: tuple[str, str], fault: Fault) -> Iterator[ObjectStore]:
    """Open a store by way of a proxy with a fault."""
    url, server = place
    with faulty(server, fault) as address:
        yield open_store(url, address + urlsplit(server).path)
