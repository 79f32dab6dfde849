"""Clocks that tests can replace, and durations and times as text."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""A function that returns the current time, in UTC."""

DURATION_PATTERN = r"^[1-9][0-9]*[mhdw]$"
"""Pattern of a duration in a task file."""

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
"""Letters of durations, and the arguments of `timedelta` for them."""

DURATION_WORDS = "a whole number above 0 with m, h, d or w (minutes, hours, days, weeks), such as 12h"
"""Description of a duration, for messages."""


def utc_now() -> datetime:
    """Return the current time of this machine."""
    return datetime.now(UTC)


def is_duration(text: str) -> bool:
    """Return whether a text is a duration."""
    return re.fullmatch(DURATION_PATTERN, text) is not None


LONGEST = timedelta(days=36500)
"""Longest duration. Times that are this far from today can still be computed."""


def parse_duration(text: str) -> timedelta:
    """Return a duration such as 30m, 6h, 2d or 1w. A longer one than `LONGEST` counts as `LONGEST`."""
    try:
        return min(timedelta(**{UNITS[text[-1]]: int(text[:-1])}), LONGEST)
    except OverflowError:
        return LONGEST


def format_moment(moment: datetime) -> str:
    """Return a time as text, to the minute: 2026-05-01 14:30 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def format_briefly(moment: datetime, now: datetime) -> str:
    """Return a time in UTC in eleven characters: 05-01 14:30. If it is not in the year of `now`, only the date."""
    moment = moment.astimezone(UTC)
    return f"{moment:%m-%d %H:%M}" if moment.year == now.year else f"{moment:%Y-%m-%d}"


def format_seconds(seconds: float) -> str:
    """Return a time in the largest unit of which there are at least two: 90 s, 2 min, 47 h, 2 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
