"""Durations in buckets, as Prometheus' histograms count them: observed by any thread, read whole."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import NamedTuple


class Distribution(NamedTuple):
    """Durations of one kind: how many are at most each bound, and at last how many in all; and their sum in seconds."""

    cumulative: Sequence[int]
    seconds: float


class Durations:
    """Durations by their labels; `bounds` are the buckets' upper bounds in seconds, rising."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._seconds: dict[tuple[str, ...], float] = {}
        self._lock = Lock()

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        """Count one duration under these labels."""
        with self._lock:
            counts = self._counts.setdefault(labels, [0] * (len(self.bounds) + 1))
            counts[bisect_left(self.bounds, seconds)] += 1
            self._seconds[labels] = self._seconds.get(labels, 0.0) + seconds

    def read(self) -> Mapping[tuple[str, ...], Distribution]:
        """Return what was observed so far, by labels."""
        with self._lock:
            return {
                labels: Distribution(list(accumulate(counts)), self._seconds[labels])
                for labels, counts in self._counts.items()
            }
