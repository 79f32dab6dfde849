"""How figures read on the page."""

from collections.abc import Callable

MINUS = "−"


def percent(value: float | None) -> str:
    """An accuracy."""
    return "–" if value is None else f"{value:.2%}"


def points(value: float) -> str:
    """A difference of two accuracies, in percentage points."""
    return f"{100 * value:+.2f}".replace("-", MINUS)


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def signed(value: float) -> str:
    """What was saved: a gain or a loss."""
    return f"{value:+,.0f}".replace("-", MINUS)


def money(value: float) -> str:
    """The same in money."""
    return f"{value:+,.2f}".replace("-", MINUS)


def times(value: float | None) -> str:
    """A speed-up; '/' where the level was not reached, as in the paper's tables."""
    return "/" if value is None else f"×{value:.2f}"


def duration(seconds: float) -> str:
    """Time on a device."""
    return f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function for function in (percent, points, count, signed, money, times, duration)
}
