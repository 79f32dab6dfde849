"""Clocks that tests can replace, durations as text, and histograms of durations."""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

Clock = Callable[[], datetime]
"""A function that returns the current time, in UTC."""

PATTERN = r"^[1-9][0-9]*[mhdw]$"
"""Pattern of a duration in a task file."""

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
"""Letters of durations, and the arguments of `timedelta` for them."""

IN_WORDS = (("day", 86_400), ("hour", 3_600), ("minute", 60))
"""Units of durations in text, with their seconds."""


def utc_now() -> datetime:
    """Return the current time of this machine."""
    return datetime.now(UTC)


def is_duration(text: str) -> bool:
    """Return whether a text is a duration."""
    return re.fullmatch(PATTERN, text) is not None


def parse_duration(text: str) -> timedelta:
    """Return a duration such as 30m, 6h, 2d or 1w."""
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
    """Return a time as text, to the minute: 2026-05-01 14:30 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


class Distribution(NamedTuple):
    """Cumulative counts of durations up to each bound, then of all durations; and their sum in seconds."""

    cumulative: Sequence[int]
    seconds: float


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
