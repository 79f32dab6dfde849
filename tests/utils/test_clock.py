"""Durations that are too long for the calendar count as a century."""

from datetime import timedelta

import pytest

from retrain.utils.clock import LONGEST, parse_duration, utc_now


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30m", timedelta(minutes=30)), ("2w", timedelta(days=14)), ("500000w", LONGEST), (f"{'9' * 40}d", LONGEST)],
)
def test_parsed_duration_can_be_added_to_any_time(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected
    assert utc_now() - expected < utc_now() + expected
