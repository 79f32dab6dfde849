"""Google Cloud Storage and Azure Blob Storage: clients, version fields for conditional writes, and credentials."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from obstore.store import AzureStore, GCSStore

from retrain.errors import StoreError
from retrain.store.requests import ATTEMPTS

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

RETRY: "RetryConfig" = {
    "max_retries": ATTEMPTS - 1,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=4), "base": 2},
    "retry_timeout": timedelta(minutes=2),
}

ACCOUNT = re.compile(r"https://([a-z0-9]+)\.blob\.")
"""The endpoint of an account in one of Azure's clouds, such as https://ACCOUNT.blob.core.windows.net."""

Client = AzureStore | GCSStore


@dataclass(frozen=True)
class Service:
    """One cloud's object store."""

    name: str
    """Name of the service in messages."""
    open: Callable[[str, str | None], Client]
    """Function that opens a bucket or container at an endpoint. None is the cloud's public endpoint."""
    version: Literal["version", "e_tag"]
    """Field of obstore's replies that conditional writes compare: the generation in GCS, the ETag in Azure."""
    variables: tuple[str, ...]
    """Environment variables that may contain credentials. One is enough."""
    file: Path | None
    """File in which the cloud's command-line tool stores credentials."""
    advice: str
    """Advice for credentials that the service refuses."""
    role: str
    """Advice for credentials that do not allow a request."""
    container: str
    """The service's word for a bucket."""
    list_command: str
    """A command that lists the buckets."""
    address: str
    """Names of the settings with the service's address."""


def _options(endpoint: str | None) -> "ClientConfig":
    """Return the client's timeouts. A request may take hours, because a slow reader leaves a stream open."""
    options: ClientConfig = {"connect_timeout": "2s", "read_timeout": "30s", "timeout": "6h"}
    return options | {"allow_http": True} if (endpoint or "").startswith("http://") else options


def _open_gcs(bucket: str, endpoint: str | None) -> Client:
    config: dict[str, str] = {"base_url": endpoint} if endpoint else {}
    return GCSStore(bucket, config=config, client_options=_options(endpoint), retry_config=RETRY)  # type: ignore[arg-type]


def _open_azure(container: str, endpoint: str | None) -> Client:
    """Open a container of the account that the endpoint names, or else AZURE_STORAGE_ACCOUNT_NAME."""
    config: dict[str, str] = {"endpoint": endpoint} if endpoint else {}
    if named := ACCOUNT.match(endpoint or ""):
        config["account_name"] = named[1]
    elif not os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise StoreError(
            f"az://{container}: no storage account is set. Set `endpoint_url` in the task to "
            "https://ACCOUNT.blob.core.windows.net, or the environment variable AZURE_STORAGE_ACCOUNT_NAME."
        )
    return AzureStore(container, config=config, client_options=_options(endpoint), retry_config=RETRY)  # type: ignore[arg-type]


SERVICES: Mapping[str, Service] = {
    "gs": Service(
        name="Google Cloud Storage",
        open=_open_gcs,
        version="version",
        variables=("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
        file=Path("~/.config/gcloud/application_default_credentials.json"),
        advice="Check the credentials: GOOGLE_APPLICATION_CREDENTIALS (the path of a key file), "
        "`gcloud auth application-default login`, or the pod's service account (Workload Identity).",
        role="If they are right, give their account the role Storage Object User on the bucket.",
        container="bucket",
        list_command="gcloud storage ls",
        address="endpoint_url",
    ),
    "az": Service(
        name="Azure Blob Storage",
        open=_open_azure,
        version="e_tag",
        variables=(
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
        ),
        file=None,
        advice="Check the credentials: AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_SECRET with "
        "AZURE_CLIENT_ID and AZURE_TENANT_ID, or the pod's service account (Workload Identity).",
        role="If they are right, give their account the role Storage Blob Data Contributor on the container.",
        container="container",
        list_command="az storage container list",
        address="endpoint_url or AZURE_STORAGE_ACCOUNT_NAME",
    ),
}
"""Services by URL scheme."""


def credentials_method(scheme: str) -> str:
    """Return the source of this process's credentials in obstore: a variable, a file, or the machine's identity."""
    service = SERVICES[scheme]
    named = [name for name in service.variables if os.environ.get(name)]
    if named:
        return named[0]
    if service.file and service.file.expanduser().exists():
        return str(service.file)
    return "the machine's or pod's identity"
