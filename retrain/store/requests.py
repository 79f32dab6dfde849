"""Requests to object stores of all kinds: retry them, and measure the durations of this process's requests."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from retrain.utils.histograms import Durations

ATTEMPTS = 4
"""Number of attempts for each request. The clients wait up to 1, 2 and 4 s between the attempts. A request to an
unreachable server fails within 15 s."""

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets, in seconds."""
REQUESTS = Durations(BOUNDS)
"""Durations of the requests of all clients in this process, by operation in S3's terms, such as GetObject. They include
the client's retries."""

Reply = TypeVar("Reply")

log = logging.getLogger("retrain")


def retry_if(is_broken: Callable[[Exception], bool], call: Callable[[], Reply]) -> Reply:
    """Return the result of `call`. Call it again after an error for which `is_broken` returns true.

    The call must be safe to repeat. The last attempt's error is raised.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:
            if not is_broken(error):
                raise
        backoff(attempt)
    return call()


def backoff(attempt: int) -> None:
    """Wait before the next attempt. The time is random, so clients that failed together do not retry together."""
    time.sleep(random.uniform(0, 2**attempt / 10))


def observe_request(service: str, operation: str, seconds: float, failed: bool = False) -> None:
    """Count and log one request."""
    REQUESTS.observe((operation,), seconds)
    log.debug("%s %s %s %.3f s", service, operation, "failed after" if failed else "took", seconds)


@contextmanager
def timed_request(service: str, operation: str) -> Iterator[None]:
    """Count and log the request within the context."""
    started, failed = time.perf_counter(), True
    try:
        yield
        failed = False
    finally:
        observe_request(service, operation, time.perf_counter() - started, failed)
