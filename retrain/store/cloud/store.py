"""A store in a bucket of Google Cloud Storage or in a container of Azure Blob Storage."""

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError

from retrain.store.base import Conflict, Entry, Missing, check_key, confirm_write
from retrain.store.cloud.errors import Location, is_broken_reply, retry, translate_errors, unusable_credentials
from retrain.store.cloud.services import SERVICES
from retrain.store.cloud.streams import CloudStream
from retrain.store.requests import ATTEMPTS, backoff, timed_request
from retrain.utils.files import temp_copy
from retrain.utils.text import is_key

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta, PutMode, PutResult

PART = 8 << 20
"""Bytes of a request in an upload. A larger file is uploaded in parallel parts."""
CONNECTIONS = 8
"""Number of parts of one file that are uploaded in parallel."""
PAGE = 1000
"""Number of objects in a page of a listing."""
BUFFER = 1 << 20


class CloudStore:
    """Objects of a bucket or container under a prefix. It is safe for threads, but not across forks."""

    def __init__(self, scheme: str, bucket: str, prefix: str, endpoint_url: str | None = None) -> None:
        self._service = SERVICES[scheme]
        self._endpoint = endpoint_url
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"{scheme}://{bucket}/{self._prefix}".rstrip("/")
        try:
            self._client = self._service.open(bucket, endpoint_url)
        except (BaseError, ValueError) as error:
            raise unusable_credentials(self._place(""), error) from error

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the object's bytes and version. Raises `Missing`."""
        with self._translate_errors(key):
            return retry(partial(self._read_whole, self._path(key)))

    def create(self, key: str, data: bytes) -> str:
        """Write a new object and return its version. Raises `Conflict` if the key has other bytes."""
        return self._put_if(key, data, "create")

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Write by compare-and-swap. Raises `Conflict` if the object has changed, and `Missing` if there is none."""
        try:
            if not version.strip("0"):  # for Google Cloud Storage, generation 0 means that there is no object yet
                return confirm_write(self, key, data)
            return self._put_if(key, data, {"e_tag": version, "version": version})
        except Conflict:
            self._head(key)
            raise

    def write(self, key: str, data: bytes) -> None:
        """Write unconditionally."""
        with self._translate_errors(key):
            retry(partial(self._put, self._path(key), data, "overwrite"))

    def delete(self, key: str) -> None:
        """Remove the object. It is no error if the object is missing."""
        with suppress(Missing), self._translate_errors(key), self._timed("DeleteObject"):
            retry(partial(obstore.delete, self._client, self._path(key)))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in order, page by page.

        An empty object called `folder/` is skipped, and `list_unusual` yields it. Raises `StoreError` if an object's
        name has an empty part, or a part that is `.` or `..`, because obstore then cannot list the other objects.
        """
        for entry in self._entries(prefix):
            if is_key(entry.key) and not self._marks_folder(entry):
                yield entry

    def list_unusual(self, prefix: str) -> Iterator[Entry]:
        """Yield the empty objects `folder/` under `prefix`."""
        for entry in self._entries(prefix):
            if self._marks_folder(entry):
                yield Entry(f"{entry.key}/", 0, entry.modified)

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below `prefix`, in order."""
        with self._translate_errors(prefix), self._timed("ListObjectsV2"):
            listing = partial(obstore.list_with_delimiter, self._client, (self._prefix + prefix).rstrip("/"))
            paths = retry(listing)["common_prefixes"]
        names = (path.removeprefix(self._prefix + prefix) for path in paths)
        yield from sorted(filter(is_key, names), key=lambda name: f"{name}/")

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return `size` bytes of the object from `start` on, or fewer at its end. Raises `Missing`."""
        if not size:
            return b""
        with self._translate_errors(key):
            return bytes(retry(lambda: self._get(self._path(key), {"range": (start, start + size)}).bytes()))

    def upload(self, path: Path, key: str) -> None:
        """Upload the file at `path`, in parallel parts if it is large. The object appears only when it is complete."""
        with self._translate_errors(key), self._timed("PutObject"):
            target = self._path(key)
            retry(lambda: obstore.put(self._client, target, path, chunk_size=PART, max_concurrency=CONNECTIONS))

    def download(self, key: str, path: Path) -> None:
        """Stream the object to a temporary file, then rename it to `path`. Raises `Missing`."""
        with self.open(key) as stream, self._translate_errors(key), temp_copy(stream, path.parent) as copy:
            copy.replace(path)

    def open(self, key: str) -> BinaryIO:
        """Open the object as a stream. Raises `Missing`."""
        with self._translate_errors(key):
            return io.BufferedReader(CloudStream(partial(self._get, self._path(key)), self._place(key)), BUFFER)

    def now(self) -> datetime:
        """Return the server's time: the modification time of an object written for this purpose."""
        key = f"clock-{uuid4().hex}"
        self.write(key, b"")
        try:
            return self._head(key)["last_modified"]
        finally:
            self.delete(key)

    def _path(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _get(self, path: str, options: "GetOptions") -> "GetResult":
        with self._timed("GetObject"):
            return obstore.get(self._client, path, options=options)

    def _read_whole(self, path: str) -> tuple[bytes, str]:
        reply = self._get(path, {})
        return bytes(reply.bytes()), self._version(reply.meta)

    def _head(self, key: str) -> "ObjectMeta":
        with self._translate_errors(key), self._timed("HeadObject"):
            return retry(partial(obstore.head, self._client, self._path(key)))

    def _put(self, path: str, data: bytes, mode: "PutMode") -> "PutResult":
        with self._timed("PutObject"):
            return obstore.put(self._client, path, data, mode=mode, use_multipart=False)

    def _put_if(self, key: str, data: bytes, mode: "PutMode") -> str:
        with self._translate_errors(key), suppress(AlreadyExistsError, PreconditionError):
            return self._version(retry(partial(self._put, self._path(key), data, mode)))
        return confirm_write(self, key, data)

    def _version(self, found: "ObjectMeta | PutResult") -> str:
        return str(found[self._service.version])

    def _entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects whose key starts with `prefix`.

        To find them, the prefix's folder is listed from the prefix on.
        """
        start = self._prefix + prefix
        folder = start.rpartition("/")[0]
        offset = None if start.endswith("/") or not start else start[:-1]
        with self._translate_errors(prefix):
            for meta in self._listed(folder or None, offset):
                if meta["path"].startswith(start):
                    yield Entry(meta["path"].removeprefix(self._prefix), meta["size"], meta["last_modified"])
                elif meta["path"] > start:
                    return

    def _listed(self, folder: str | None, after: str | None) -> "Iterator[ObjectMeta]":
        """Yield the objects of a folder after a path. A broken listing is resumed after its last object."""
        attempt = 0
        while True:
            try:
                listing = obstore.list(self._client, folder, offset=after, chunk_size=PAGE)
                while page := self._next_page(listing):
                    yield from page
                    after = page[-1]["path"]
                return
            except GenericError as error:
                attempt += 1
                if attempt == ATTEMPTS or not is_broken_reply(error):
                    raise
            backoff(attempt)

    def _next_page(self, listing: "Iterator[Sequence[ObjectMeta]]") -> "Sequence[ObjectMeta]":
        with self._timed("ListObjectsV2"):
            return next(listing, ())

    def _marks_folder(self, entry: Entry) -> bool:
        """Return whether an entry is an empty object called `folder/`. obstore lists such an object as `folder`."""
        if entry.size:
            return False
        try:
            self._head(entry.key)
        except Missing:
            return True
        return False

    def _timed(self, operation: str) -> AbstractContextManager[None]:
        return timed_request(self._service.name, operation)

    def _place(self, key: str) -> Location:
        return Location(self.url, self._service, self._endpoint, key)

    def _translate_errors(self, key: str) -> AbstractContextManager[None]:
        return translate_errors(self._place(key))
