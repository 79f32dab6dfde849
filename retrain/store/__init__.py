"""The store of drops, runs, the ledger and the champion.

All access to a task's data goes through `task_store.TaskStore`. It uses one `ObjectStore`: a local folder, S3
(`store/s3/`), Google Cloud Storage or Azure Blob Storage (`store/cloud/`). tests/store/test_store.py runs the same
tests on all of them. This package imports records, config, utils and errors.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from retrain.errors import StoreError
from retrain.store.base import Conflict, Entry, Missing, ObjectStore
from retrain.store.local import LocalStore
from retrain.utils.text import is_web_address, mask_credentials

__all__ = [
    "Conflict",
    "Entry",
    "LocalStore",
    "Missing",
    "ObjectStore",
    "missing_folder",
    "open_store",
    "parse_store_address",
]


MISTYPED = re.compile(r"(s3|gs|az|https?|file):")
"""Start of an address that lacks a slash, such as `s3:/bucket/prefix`. It is not meant as a folder."""

EXTRAS = {"gs": "gcs", "az": "azure"}
"""The extra (optional dependencies) that each kind of address needs."""


class BucketAddress(NamedTuple):
    """The parts of an address such as `s3://bucket/prefix`."""

    scheme: str
    bucket: str
    prefix: str


def parse_store_address(url: str, endpoint_url: str | None = None) -> BucketAddress | Path:
    """Return the parts of a store's address, or the path of a local folder.

    `endpoint_url` is only checked. Raises `StoreError` for any other kind of address.
    """
    scheme, separator, rest = url.partition("://")
    if not separator and not MISTYPED.match(url):
        return Path(url)
    bucket, _, prefix = rest.partition("/")
    if scheme not in ("s3", *EXTRAS) or not bucket:
        raise StoreError(
            f"store: cannot open {url!r}; allowed are s3://bucket/prefix, gs://bucket/prefix, az://container/prefix "
            "and the path of a local folder."
        )
    if endpoint_url and not is_web_address(endpoint_url):
        raise StoreError(f"endpoint_url {mask_credentials(endpoint_url)}: must begin with http:// or https://")
    return BucketAddress(scheme, bucket, prefix)


def missing_folder(url: str) -> Path | None:
    """Return the absolute path of a local store whose folder does not exist, and None for any other store.

    Such a store would look like an empty task. Its first write creates the folder.
    """
    folder = Path(url).expanduser()
    return None if "://" in url or os.path.isdir(folder) else folder.absolute()  # unlike is_dir, raises no error


def open_store(url: str, endpoint_url: str | None = None) -> ObjectStore:
    """Open the store that a task names: `s3://bucket/prefix`, `gs://...`, `az://container/prefix`, or a local folder.

    `endpoint_url` is the address of a server other than the cloud provider's. It is ignored for a folder. Raises
    `StoreError` for any other kind of address.
    """
    address = parse_store_address(url, endpoint_url)
    if isinstance(address, Path):
        return LocalStore(address)
    if address.scheme in EXTRAS:
        return _open_cloud_store(*address, endpoint_url)
    from retrain.store.s3.store import S3Store  # boto3 is slow to import, and a local store does not need it

    return S3Store(address.bucket, address.prefix, endpoint_url)


def _open_cloud_store(scheme: str, bucket: str, prefix: str, endpoint_url: str | None) -> ObjectStore:
    try:
        from retrain.store.cloud.store import CloudStore
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        extra = EXTRAS[scheme]
        raise StoreError(
            f"store: {scheme}://{bucket} needs obstore: pip install 'retrain-classifiers[{extra}]'"
        ) from error
    return CloudStore(scheme, bucket, prefix, endpoint_url)
