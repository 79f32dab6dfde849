"""Durations and times as text. Durations that are too long for the calendar count as a century."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from retrain.utils.clock import (
    LONGEST,
    format_briefly,
    format_moment,
    format_seconds,
    is_duration,
    parse_duration,
    utc_now,
)

INDIA = timezone(timedelta(hours=5, minutes=30))
NEW_YEAR = datetime(2026, 1, 1, 5, 0, tzinfo=INDIA)
"""The first morning of 2026 in India, when it is still 2025 in UTC."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30m", timedelta(minutes=30)), ("2w", timedelta(days=14)), ("500000w", LONGEST), (f"{'9' * 40}d", LONGEST)],
)
def test_parsed_duration_can_be_added_to_any_time(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected
    assert utc_now() - expected < utc_now() + expected


@pytest.mark.parametrize("text", ["", "0h", "h", "1", "1.5h", "-1h", "1s", " 1h", "1h ", "1H"])
def test_other_texts_are_no_durations(text: str) -> None:
    assert is_duration("1h")
    assert not is_duration(text)


def test_times_are_written_in_utc() -> None:
    assert format_moment(NEW_YEAR) == "2025-12-31 23:30 UTC"
    assert format_briefly(NEW_YEAR, datetime(2025, 12, 31, tzinfo=UTC)) == "12-31 23:30"
    assert format_briefly(NEW_YEAR, datetime(2026, 1, 1, tzinfo=UTC)) == "2025-12-31"


def test_seconds_are_written_in_the_largest_unit_with_two() -> None:
    texts = [format_seconds(seconds) for seconds in (0, 119, 120, 7199, 7200, 2 * 86400)]
    assert texts == ["0 s", "119 s", "2 min", "120 min", "2 h", "2 d"]
