"""Let leases expire without waiting, and wait for conditions."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo

import pytest

from retrain.store import ObjectStore, lease

HOURS = 3600.0
"""Seconds of a lease that does not expire while a test runs."""


class ShiftedClock:
    """A clock for leases that is `ahead` seconds ahead of the machine's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr(lease, "datetime", self)

    def now(self, zone: tzinfo) -> datetime:
        """Return the fake time, like `datetime.now`."""
        return datetime.now(zone) + timedelta(seconds=self.ahead)


def count_reads(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the reads of each key of a store from now on."""
    reads, read = Counter[str](), store.read

    def counting(key: str) -> tuple[bytes, str]:
        reads[key] += 1
        return read(key)

    monkeypatch.setattr(store, "read", counting)
    return reads


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until a condition is true. Fail after this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:g} s"
        time.sleep(0.005)
