"""Azurite, Microsoft's own emulator of Azure Blob Storage, which `make test` installs."""

import base64
import hmac
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from support.monitoring import wait_for
from support.ports import free_port
from support.programs import need

PROGRAM = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCOUNT = "retrain"
AZURE = {
    "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
    "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"a key of the tests").decode(),
    "NO_PROXY": "127.0.0.1",
}
"""The environment in which obstore speaks to it."""


@contextmanager
def serving_azure(folder: Path) -> Iterator[str]:
    """Yield the address of an account without containers; skip where there is no program, and fail on CI."""
    if not PROGRAM.exists():
        message = "no Azurite: `make test` installs it"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    port = free_port()
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [need("node", "nodejs"), str(PROGRAM), *options, "--blobPort", str(port)]
    environment = os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{AZURE['AZURE_STORAGE_ACCOUNT_KEY']}"}
    log = folder / "azurite.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder) as server,
    ):
        try:
            wait_for(lambda: server.poll() is not None or b"successfully listens" in log.read_bytes(), "Azurite")
            assert server.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}/{ACCOUNT}"
        finally:
            server.terminate()


def create_container(address: str, name: str) -> None:
    """Create a container by a request signed with the account's key, which obstore has no call for."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signed = "\n".join(["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items()), resource])
    digest = hmac.digest(base64.b64decode(AZURE["AZURE_STORAGE_ACCOUNT_KEY"]), signed.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    with urlopen(Request(f"{address}/{name}?restype=container", method="PUT", headers=headers)) as reply:
        assert reply.status == 201
