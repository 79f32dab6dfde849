"""Map a function over items in threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from retrain.utils.processes import available_cores

READERS = 16
RESULTS_AHEAD = 500
"""Largest number of results in memory at once."""

Key = TypeVar("Key")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Key], Result], keys: Iterable[Key], ahead: int = RESULTS_AHEAD) -> Iterator[Result]:
    """Yield function(key) for every key, in order, with at most `ahead` results in memory. Raises the first error."""
    remaining = iter(keys)
    with ThreadPoolExecutor(READERS) as pool:
        pending = deque(pool.submit(function, key) for key in islice(remaining, ahead))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, key) for key in islice(remaining, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


Item = TypeVar("Item")

CHUNK_SIZE = 16  # items per task of a thread: one by one, small images take longer than on a single thread


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of this size; the last one may be shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) for every item, in order; the first exception ends it."""
    threads = available_cores()
    pending: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in in_chunks(items, CHUNK_SIZE):
            pending.append(pool.submit(lambda chunk: [function(item) for item in chunk], chunk))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()
