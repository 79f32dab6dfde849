"""Counters of a prediction server, and the Prometheus metrics made from them."""

from collections import Counter
from collections.abc import Iterator
from threading import Lock

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retrain.monitoring import names
from retrain.monitoring.metrics import family


class Counts(Collector):
    """Counters written by the threads that answer requests, and read by the metrics endpoint."""

    def __init__(self, task: str) -> None:
        self._task, self._lock = task, Lock()
        self._requests: Counter[str] = Counter()
        self._images, self._seconds, self._load_errors = 0, 0.0, 0
        self._run_id = ""

    def answered(self, code: int, images: int, seconds: float) -> None:
        """Count one request for predictions."""
        with self._lock:
            self._requests[str(code)] += 1
            self._images += images
            self._seconds += seconds

    def loaded(self, run_id: str) -> None:
        """Record the run whose model is served from now on."""
        with self._lock:
            self._run_id = run_id

    def failed_to_load(self) -> None:
        """Count a failed check for a new champion."""
        with self._lock:
            self._load_errors += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the server's metrics."""
        with self._lock:
            requests, images, seconds = self._requests.copy(), self._images, self._seconds
            run_id, errors = self._run_id, self._load_errors
        task = self._task
        yield family(names.SERVED_MODEL, [((task, run_id), 1)])
        yield family(names.SERVED_REQUESTS, [((task, code), count) for code, count in sorted(requests.items())])
        yield family(names.SERVED_IMAGES, [((task,), images)])
        yield family(names.SERVED_SECONDS, [((task,), seconds)])
        yield family(names.SERVED_ERRORS, [((task,), errors)])
