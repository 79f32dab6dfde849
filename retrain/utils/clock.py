"""Clocks that tests can set; durations as people write and read them, and as histograms count them."""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

Clock = Callable[[], datetime]
"""Tells the time, in UTC."""

PATTERN = r"^[1-9][0-9]*[mhdw]$"
"""Of a duration, as task files write it."""

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
"""Letters of durations, and what `timedelta` calls them."""

IN_WORDS = (("day", 86_400), ("hour", 3_600), ("minute", 60))
"""Units of durations, and their seconds."""


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def is_duration(text: str) -> bool:
    """Return whether a text is a duration."""
    return re.fullmatch(PATTERN, text) is not None


def parse_duration(text: str) -> timedelta:
    """Return how long 30m, 6h, 2d or 1w is."""
    return timedelta(**{UNITS[text[-1]]: int(text[:-1])})


def format_duration(length: timedelta) -> str:
    """Return a duration in its two largest units, rounded up to minutes: 2 days 3 hours, 15 minutes."""
    rest = max(1, -(-int(length.total_seconds()) // 60)) * 60
    parts = []
    for name, seconds in IN_WORDS:
        number, rest = divmod(rest, seconds)
        if number:
            parts.append(f"{number} {name}{'s' if number > 1 else ''}")
    return " ".join(parts[:2])


def format_moment(moment: datetime) -> str:
    """Return a moment as people read it, to the minute: 2026-05-01 14:30 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


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
