"""Many small objects at once: reading one is waiting for the store."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

READERS = 16
BATCH = 500
"""Answers in memory at once."""

Key = TypeVar("Key")
Answer = TypeVar("Answer")


def ask_all(ask: Callable[[Key], Answer], keys: Iterable[Key]) -> Iterator[Answer]:
    """Yield ask(key) for every key, in order; the first exception ends it."""
    remaining = iter(keys)
    with ThreadPoolExecutor(READERS) as pool:
        while batch := list(islice(remaining, BATCH)):
            yield from pool.map(ask, batch)
