"""An S3 object read in sequence, taken up again where a connection broke."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from retrain.store.s3_errors import Place, explained

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CUT = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
"""The body ended before the object did; botocore retries requests, not bodies."""
CUTS = 5
"""After this many cuts of one object the error stands."""


class S3Stream(io.RawIOBase):
    """The bytes of one version of an object: `reply` is what `get` answered.

    `get` is boto3's `get_object` for it, and takes `Range` and `IfMatch`. Reading raises `StoreError` if the server
    fails, or if the object was replaced when the stream must be taken up again.
    """

    def __init__(self, reply: dict[str, Any], get: Callable[..., dict[str, Any]], place: Place) -> None:
        super().__init__()
        self._body = reply["Body"]
        self._etag: str = reply["ETag"]
        self._get = get
        self._place = place
        self._position = 0
        self._cuts = 0
        self.version = self._etag.strip('"')

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
                return chunk
            except CUT:
                self._cuts += 1
                if self._cuts == CUTS:
                    raise
            self._body.close()
            self._body = self._get(Range=f"bytes={self._position}-", IfMatch=self._etag)["Body"]
