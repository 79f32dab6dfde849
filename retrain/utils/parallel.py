"""Map a function over items in threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from retrain.utils.processes import available_cores

READERS = 16
ANSWERS_AHEAD = 500
"""Answers in memory at once."""

Key = TypeVar("Key")
Answer = TypeVar("Answer")


def map_ahead(ask: Callable[[Key], Answer], keys: Iterable[Key], ahead: int = ANSWERS_AHEAD) -> Iterator[Answer]:
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


Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_AT_ONCE = 16  # handed to a thread at once: one by one, small images take longer than on a single thread


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) for every item, in order; the first exception ends it."""
    threads = available_cores()
    stream = iter(items)
    pending: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(stream, ITEMS_AT_ONCE)):
            pending.append(pool.submit(lambda chunk: [function(item) for item in chunk], chunk))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()
