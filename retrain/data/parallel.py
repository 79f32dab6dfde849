"""Work on a stream of items in threads, in bounded memory. Pillow lets go of the interpreter while it decodes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from retrain.processors import own_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16  # handed to a thread at once: one by one, small images take longer than on a single thread


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) for every item, in order; the first exception ends it."""
    threads = own_cores()
    stream = iter(items)
    pending: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(stream, CHUNK)):
            pending.append(pool.submit(lambda chunk: [function(item) for item in chunk], chunk))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()
