"""Read large S3 objects as a stream that reconnects, or download them over several connections."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager, suppress
from functools import partial
from http.client import REQUESTED_RANGE_NOT_SATISFIABLE
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from retrain.store.s3.errors import Location, http_status, translate_errors
from retrain.store.s3.requests import retry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECTION_ERRORS = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, FlexibleChecksumError)
"""Errors of an incomplete or damaged body. botocore repeats a request only until its body begins."""
MAX_BREAKS = 5
"""Number of broken connections after which the error is raised, for one object."""


class S3Stream(io.RawIOBase):
    """The bytes of one version of an object from `start` on. Reading reconnects if the connection breaks.

    `get` is boto3's `get_object` for this object, with the parameters `Range` and `IfMatch`. `reply` is its first
    reply. Reading raises `StoreError` if the server fails, or if the object was replaced before the stream was resumed.
    """

    def __init__(
        self, reply: dict[str, Any], get: Callable[..., dict[str, Any]], place: Location, start: int = 0
    ) -> None:
        super().__init__()
        self._body = reply["Body"]
        self.etag: str = reply["ETag"]
        self._get = get
        self._place = place
        self._position = start
        self._end = 0
        """Size of the object in bytes. It is 0 until the stream has reconnected."""
        self.size: int = reply["ContentLength"]
        """Size of the first reply in bytes."""
        self._cuts = 0
        self.version = self.etag.strip('"')

    def readable(self) -> bool:
        """Return True, because the stream can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with the next bytes, and return their number (0 at the end)."""
        view = memoryview(buffer).cast("B")
        with translate_errors(self._place):
            chunk = self._next(len(view))
        view[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def close(self) -> None:
        """Return the connection to the pool."""
        if not self.closed:
            self._body.close()
        super().close()

    def _next(self, size: int) -> bytes:
        while True:
            try:
                chunk: bytes = self._body.read(size)
                if chunk or size == 0 or self._position >= self._end:
                    return chunk
                raise IncompleteReadError(actual_bytes=self._position, expected_bytes=self._end)
            except CONNECTION_ERRORS as error:
                self._cuts += 1
                if self._cuts == MAX_BREAKS:
                    raise
                self._resume(error)

    def _resume(self, cut: Exception) -> None:
        """Request the rest of the object.

        Raises `cut` if all bytes were read already. An example is a wrong checksum at the end.
        """
        self._body.close()
        try:
            reply = retry(partial(self._get, Range=f"bytes={self._position}-", IfMatch=self.etag))
        except ClientError as error:
            if http_status(error) == REQUESTED_RANGE_NOT_SATISFIABLE:
                raise cut from error
            raise
        self._body = reply["Body"]
        # The reply to a range request has no checksum, so only the object's size reveals a missing end.
        self._end = int(reply["ContentRange"].rpartition("/")[2])


PART = 8 << 20
"""Bytes of a request. AWS recommends 8 to 16 MB."""
CONNECTIONS = 10
"""Largest number of connections that transfer parts in parallel, for all objects together. It is boto3's default."""
BUFFER = 1 << 20
"""Bytes in memory for each connection."""


def download_parts(
    opened: S3Stream, part_at: Callable[[int, int], S3Stream], helpers: Executor, file: BinaryIO
) -> None:
    """Download an object into an empty file over several connections.

    `opened` reads the object from its start, and `part_at(start, end)` opens a stream of some of its bytes. The threads
    of `helpers` may be shared by several downloads. The first error ends the download.
    """
    size = opened.size
    parts = deque(range(0, size, PART))

    def from_the_start() -> None:
        for start in _taken(parts.popleft):
            _copy(opened, start, min(start + PART, size), file)

    def from_the_end() -> None:
        with _emptied(parts):
            for start in _taken(parts.pop):
                end = min(start + PART, size)
                with part_at(start, end) as stream:
                    _copy(stream, start, end, file)

    others = [helpers.submit(from_the_end) for _ in range(min(CONNECTIONS, len(parts)) - 1)]
    try:
        with _emptied(parts):
            from_the_start()
    finally:
        wait([other for other in others if not other.cancel()])  # they write into the file, and the caller may close it
    for other in others:
        if not other.cancelled():
            other.result()


def _taken(take: Callable[[], int]) -> Iterator[int]:
    with suppress(IndexError):
        while True:
            yield take()


@contextmanager
def _emptied(parts: deque[int]) -> Iterator[None]:
    """Clear the queue at the end of the context: the other threads must stop after an error in this one."""
    try:
        yield
    finally:
        parts.clear()


def _copy(stream: S3Stream, start: int, end: int, file: BinaryIO) -> None:
    buffer = memoryview(bytearray(BUFFER))
    while start < end:
        count = stream.readinto(buffer[: min(BUFFER, end - start)])
        os.pwrite(file.fileno(), buffer[:count], start)
        start += count
