"""A store in an S3 bucket, on AWS or on any server that supports its protocol and conditional writes."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import CONFLICT, PRECONDITION_FAILED
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from boto3.s3.transfer import S3Transfer, TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from botocore.session import get_session
from botocore.utils import parse_timestamp

from retrain.store.base import Entry, Missing, check_key, confirm_write
from retrain.store.requests import ATTEMPTS, backoff
from retrain.store.s3.errors import Denied, Location, http_status, translate_errors
from retrain.store.s3.requests import retry, time_requests
from retrain.store.s3.transfers import BUFFER, CONNECTIONS, PART, S3Stream, download_parts
from retrain.utils.files import temp_copy, temp_file
from retrain.utils.parallel import READERS
from retrain.utils.text import is_key

CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    connect_timeout=2,
    read_timeout=30,
    max_pool_connections=CONNECTIONS + READERS,  # for transfers, and for `map_ahead` over small objects
)

LARGE = 2 * PART
"""Size in bytes from which an object is transferred in parts. For smaller objects, the additional requests cost more
than they gain."""

TRANSFER = TransferConfig(
    multipart_threshold=LARGE,
    multipart_chunksize=PART,
    max_concurrency=CONNECTIONS,
    preferred_transfer_client="classic",  # the CRT client ignores endpoint_url (boto3#4839)
)


def credentials_method() -> str | None:
    """Return boto3's name for the source of this process's credentials (`env`, `iam-role`, ...), or None."""
    found = Session().get_credentials()
    return str(found.method) if found else None


DESCRIPTIONS = create_loader()
"""Botocore's descriptions of S3. A session that reads them again takes 12 MB and a tenth of a second."""


def _parse_time(text: str) -> datetime:
    """Return a reply's time. Botocore's parser takes 200 times as long, and most of the time of a long listing."""
    try:
        return datetime.fromisoformat(text)  # in XML
    except ValueError:
        return parse_timestamp(text)  # type: ignore[no-any-return]  # in headers


def _make_client(endpoint_url: str | None) -> Any:
    """Return a client in a separate session, with the current credentials and region of the environment."""
    session = get_session()
    session.register_component("data_loader", DESCRIPTIONS)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    return session.create_client("s3", endpoint_url=endpoint_url, config=CONFIG)


class S3Store:
    """Objects of a bucket under a prefix. boto3 finds the credentials. It is safe for threads, but not across forks.

    Versions are ETags without their quotes. AWS accepts both forms, and some servers accept only this form.
    """

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        with translate_errors(Location(self.url, endpoint_url or "AWS", "")):
            self._client: Any = _make_client(endpoint_url)
        time_requests(self._client)
        self._uploads = S3Transfer(self._client, TRANSFER)
        self._helpers = ThreadPoolExecutor(CONNECTIONS, "s3")

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the object's bytes and version. Raises `Missing`."""
        with self._stream(key) as stream:
            return stream.readall(), stream.version

    def create(self, key: str, data: bytes) -> str:
        """Write a new object and return its version. Raises `Conflict` if the key has other bytes."""
        return self._put_if(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Write by compare-and-swap. Raises `Conflict` if the object has changed, and `Missing` if there is none."""
        return self._put_if(key, data, IfMatch=version)

    def write(self, key: str, data: bytes) -> None:
        """Write unconditionally."""
        with self._translate_errors(key):
            retry(partial(self._client.put_object, **self._object(key), Body=data))

    def delete(self, key: str) -> None:
        """Remove the object. It is no error if the object is missing."""
        with self._translate_errors(key):
            retry(partial(self._client.delete_object, **self._object(key)))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in order, page by page.

        Objects whose names are not keys, such as `folder/`, are skipped, and `list_unusual` yields them.
        """
        return (entry for entry in self._entries(prefix) if is_key(entry.key))

    def list_unusual(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects under `prefix` whose names are not keys: `folder/`, `folder//name`, `folder/./name`."""
        return (entry for entry in self._entries(prefix) if not is_key(entry.key))

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return `size` bytes of the object from `start` on. Raises `Missing`."""
        if not size:
            return b""
        get = partial(self._client.get_object, **self._object(key), Range=f"bytes={start}-{start + size - 1}")
        with self._translate_errors(key):
            return bytes(retry(lambda: get()["Body"].read()))

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below `prefix`, in order, page by page."""
        with self._translate_errors(prefix):
            for page in self._pages(prefix, Delimiter="/"):
                for item in page.get("CommonPrefixes", ()):
                    name = item["Prefix"].removeprefix(self._prefix + prefix).rstrip("/")
                    if is_key(name):
                        yield name

    def upload(self, path: Path, key: str) -> None:
        """Upload the file at `path`. A large file is sent in parallel parts. All files share the connections."""
        with self._translate_errors(key):
            retry(partial(self._uploads.upload_file, str(path), self._bucket, self._prefix + check_key(key)))

    def download(self, key: str, path: Path) -> None:
        """Stream the object to a temporary file, then rename it to `path`. Raises `Missing`.

        A large object is fetched over several connections.
        """
        with self._translate_errors(key), self._stream(key) as opened:
            large = opened.size >= LARGE
            part_at = partial(self._part, key, opened.etag)
            with (
                temp_file(partial(download_parts, opened, part_at, self._helpers), path.parent)
                if large
                else temp_copy(io.BufferedReader(opened, BUFFER), path.parent) as copy
            ):
                copy.replace(path)

    def open(self, key: str) -> BinaryIO:
        """Open the object as a stream. Raises `Missing`."""
        return io.BufferedReader(self._stream(key), BUFFER)

    def now(self) -> datetime:
        """Return the server's time, from the date of a reply."""
        with self._translate_errors(""):
            reply = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])

    def _entries(self, prefix: str) -> Iterator[Entry]:
        with self._translate_errors(prefix):
            for page in self._pages(prefix):
                for item in page.get("Contents", ()):
                    yield Entry(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"])

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing. A page is requested again if its reply breaks."""
        ask = partial(self._list_page, Bucket=self._bucket, Prefix=self._prefix + prefix, **options)
        page = retry(ask)
        yield page
        while page["IsTruncated"]:
            page = retry(partial(ask, ContinuationToken=page["NextContinuationToken"]))
            yield page

    def _list_page(self, **options: str) -> dict[str, Any]:
        page: dict[str, Any] = self._client.list_objects_v2(**options)
        if "IsTruncated" not in page:  # botocore reads any XML or XHTML page as an empty reply
            raise ResponseParserError("it is no listing of a bucket")
        return page

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _stream(self, key: str) -> S3Stream:
        get = partial(self._client.get_object, **self._object(key))
        try:
            with self._translate_errors(key):
                return S3Stream(retry(get), get, self._place(key))
        except Denied:  # also the reply for an absent key, if the credentials may list only their prefix
            if any(entry.key == key for entry in islice(self.list(key), 1)):
                raise
            raise Missing(f"{self._place(key)}: there is no such object.") from None

    def _part(self, key: str, etag: str, start: int, end: int) -> S3Stream:
        """Return a stream of some bytes of one version of an object."""
        get = partial(self._client.get_object, **self._object(key))
        with self._translate_errors(key):
            reply = retry(partial(get, Range=f"bytes={start}-{end - 1}", IfMatch=etag))
        return S3Stream(reply, get, self._place(key), start)

    def _put_if(self, key: str, data: bytes, **condition: str) -> str:
        """Send a conditional write. Repeat it while the server answers that another write is in progress (409)."""
        with self._translate_errors(key):
            for attempt in range(ATTEMPTS):
                try:
                    put = partial(self._client.put_object, **self._object(key), Body=data, **condition)
                    return str(retry(put)["ETag"]).strip('"')
                except ClientError as error:
                    if http_status(error) == PRECONDITION_FAILED:
                        break
                    if http_status(error) != CONFLICT or attempt == ATTEMPTS - 1:
                        raise
                backoff(attempt)
        return confirm_write(self, key, data)

    def _place(self, key: str) -> Location:
        return Location(self.url, self._client.meta.endpoint_url, key)

    def _translate_errors(self, key: str) -> AbstractContextManager[None]:
        return translate_errors(self._place(key))
