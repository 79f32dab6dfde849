"""Histograms of durations, in the form in which Prometheus serves them."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import NamedTuple


class Distribution(NamedTuple):
    """One histogram of durations."""

    cumulative: Sequence[int]
    """Number of durations up to each bound, and then of all durations."""
    seconds: float
    """Sum of all durations."""


class Durations:
    """Histograms of durations by labels. `bounds` are the upper bounds of the buckets in seconds, ascending."""

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
        """Return the histograms so far, by labels."""
        with self._lock:
            return {
                labels: Distribution(list(accumulate(counts)), self._seconds[labels])
                for labels, counts in self._counts.items()
            }
