"""Read an object in sequence, across broken connections."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from obstore.exceptions import GenericError

from retrain.store.cloud.errors import Location, is_broken_reply, retry, translate_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import GetOptions, GetResult

MAX_BREAKS = 5
"""Number of broken connections after which the error is raised, for one object."""
CHUNK = 1 << 20
"""Bytes that a stream takes from the connection at a time."""


class CloudStream(io.RawIOBase):
    """The bytes of one version of an object, across broken connections. `get` requests the object or a part of it.

    obstore also resumes a broken reply, but only within its `retry_timeout`. Reading a shard may take longer.
    """

    def __init__(self, get: "Callable[[GetOptions], GetResult]", place: Location) -> None:
        super().__init__()
        self._get, self._place = get, place
        reply = retry(lambda: get({}))
        self.meta = reply.meta
        self._chunks = reply.stream(CHUNK)
        self._chunk = memoryview(b"")
        self._position = self._cuts = 0

    def readable(self) -> bool:
        """Return True, because the stream can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with the next bytes, and return their number (0 at the end). Raises `StoreError`."""
        view = memoryview(buffer).cast("B")
        if not self._chunk:
            with translate_errors(self._place):
                self._chunk = self._next()
        count = min(len(view), len(self._chunk))
        view[:count], self._chunk = self._chunk[:count], self._chunk[count:]
        return count

    def _next(self) -> memoryview:
        while True:
            try:
                chunk = memoryview(next(self._chunks, b""))
            except GenericError as error:
                self._cuts += 1
                if self._cuts == MAX_BREAKS or not is_broken_reply(error):
                    raise
                self._resume()
            else:
                self._position += len(chunk)
                return chunk

    def _resume(self) -> None:
        """Request the rest of the same version. Raises `PreconditionError` if the object was replaced."""
        rest: GetOptions = {"range": {"offset": self._position}, "if_match": self.meta["e_tag"]}
        self._chunks = retry(lambda: self._get(rest)).stream(CHUNK)
