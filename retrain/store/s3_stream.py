"""An S3 object read in sequence, taken up again where a connection broke."""

import io
from collections.abc import Callable
from functools import partial
from http.client import REQUESTED_RANGE_NOT_SATISFIABLE
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from retrain.store.s3_errors import Place, explained, status
from retrain.store.s3_retry import again

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CUT = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, FlexibleChecksumError)
"""The body ended before the object did, by its length or by its checksum; botocore retries requests, not bodies."""
CUTS = 5
"""After this many cuts of one object the error stands."""


class S3Stream(io.RawIOBase):
    """The bytes of one version of an object, or those from `start` on: `reply` is what `get` answered.

    `get` is boto3's `get_object` for it, and takes `Range` and `IfMatch`. Reading raises `StoreError` if the server
    fails, or if the object was replaced when the stream must be taken up again.
    """

    def __init__(self, reply: dict[str, Any], get: Callable[..., dict[str, Any]], place: Place, start: int = 0) -> None:
        super().__init__()
        self._body = reply["Body"]
        self.etag: str = reply["ETag"]
        self._get = get
        self._place = place
        self._position = start
        self._end = 0
        """Of the object, once a part of it was asked for; its checksum tells the end of the whole."""
        self.size: int = reply["ContentLength"]
        """Bytes of the reply."""
        self._cuts = 0
        self.version = self.etag.strip('"')

    def readable(self) -> bool:
        """Reading is all it is for."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with the next bytes and return how many; 0 at the end."""
        view = memoryview(buffer).cast("B")
        with explained(self._place):
            chunk = self._next(len(view))
        view[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def close(self) -> None:
        """Give the connection back."""
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
            except CUT as error:
                self._cuts += 1
                if self._cuts == CUTS:
                    raise
                self._go_on(error)

    def _go_on(self, cut: Exception) -> None:
        """Ask for the rest. Raises `cut` if there is none: then it is not the end that is wrong."""
        self._body.close()
        try:
            reply = again(partial(self._get, Range=f"bytes={self._position}-", IfMatch=self.etag))
        except ClientError as error:
            if status(error) == REQUESTED_RANGE_NOT_SATISFIABLE:
                raise cut from error
            raise
        self._body = reply["Body"]
        self._end = int(reply["ContentRange"].rpartition("/")[2])  # parts carry no checksum that would tell their end
