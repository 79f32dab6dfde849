"""A large S3 object into a file over several connections, as servers give each of them only so much.

The connection that opened the object reads on from its start while the others fetch parts from its end, until they
meet. Parts carry no checksum: what is downloaded whole is known by its digest.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager, suppress
from typing import BinaryIO

from retrain.store.s3_stream import S3Stream

PART = 8 << 20
"""Bytes of a request; AWS advises 8 to 16 MB."""
CONNECTIONS = 10
"""As many as boto3's own transfers use, of all objects together."""
BUFFER = 1 << 20
"""Bytes that each connection holds in memory."""


def fetch(opened: S3Stream, part_at: Callable[[int, int], S3Stream], helpers: Executor, file: BinaryIO) -> None:
    """Write an object into an empty file: `opened` streams it, and `part_at(start, end)` some of its bytes.

    Several objects that are fetched at once share the `helpers`. The first error ends it.
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
        wait([other for other in others if not other.cancel()])  # they write into the file
    for other in others:
        if not other.cancelled():
            other.result()


def _taken(take: Callable[[], int]) -> Iterator[int]:
    with suppress(IndexError):
        while True:
            yield take()


@contextmanager
def _emptied(parts: deque[int]) -> Iterator[None]:
    """Leave nothing to do for the others, should this one have failed."""
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
