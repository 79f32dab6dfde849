"""Empty stores in Google Cloud Storage and Azure, on the servers that the fixtures `gcs` and `azure` start."""

from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from support.azurite import create_container


def cloud_store(scheme: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the address of an empty store of a kind, `gs` or `az`, and that of its server."""
    name = f"test-{uuid4().hex}"
    address: str = request.getfixturevalue({"gs": "gcs", "az": "azure"}[scheme])
    if scheme == "gs":
        urlopen(Request(f"{address}/{name}", method="PUT")).close()
    else:
        create_container(address, name)
    return f"{scheme}://{name}/some/prefix", address
