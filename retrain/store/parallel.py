"""Many small objects at once: reading one is waiting for the store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

READERS = 16
AHEAD = 500
"""Answers in memory at once."""

Key = TypeVar("Key")
Answer = TypeVar("Answer")


def ask_all(ask: Callable[[Key], Answer], keys: Iterable[Key], ahead: int = AHEAD) -> Iterator[Answer]:
    """Yield ask(key) for every key, in order, with `ahead` answers in memory at most; the first exception ends it."""
    remaining = iter(keys)
    with ThreadPoolExecutor(READERS) as pool:
        asked = deque(pool.submit(ask, key) for key in islice(remaining, ahead))
        try:
            while asked:
                yield asked.popleft().result()
                asked.extend(pool.submit(ask, key) for key in islice(remaining, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
