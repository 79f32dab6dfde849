"""Clocks that tests can set, and durations as people write and read them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Tells the time, in UTC."""

PATTERN = r"^[1-9][0-9]*[mhdw]$"
"""Of a duration, as task files write it."""

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
"""Letters of durations, and what `timedelta` calls them."""

IN_WORDS = (("day", 86_400), ("hour", 3_600), ("minute", 60))
"""Units in which durations are told, and their seconds."""


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def is_duration(text: str) -> bool:
    """Say whether a text is a duration."""
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
