"""Map a function over items in threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from retrain.utils.processes import available_cores

READERS = 16
"""Threads of `map_ahead`. They mostly wait for replies of a store."""
RESULTS_AHEAD = 500
"""Largest number of results of `map_ahead` in memory at the same time."""
CHUNK_SIZE = 16
"""Number of items that a thread of `parallel_map` gets at a time. With one small image at a time, threads are slower
than a loop."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = RESULTS_AHEAD
) -> Iterator[Result]:
    """Yield function(item) for every item, in order, with at most `ahead` results in memory. Raises the first error.

    It suits functions that wait, such as reads of a store.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        pending = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of this size. The last one may be shorter. Raises `ValueError` for a size below 1."""
    if size < 1:  # else no item would be returned
        raise ValueError(f"the size of a chunk or batch must be at least 1, not {size}")
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) for every item, in order, with a thread for each core. Raises the first error.

    It suits functions that release Python's global lock, such as the decoding of images.
    """
    threads = available_cores()
    pending: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in in_chunks(items, CHUNK_SIZE):
            pending.append(pool.submit(lambda chunk: [function(item) for item in chunk], chunk))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()
