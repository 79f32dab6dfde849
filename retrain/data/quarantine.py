"""Drops that cannot be used, each with a report for people beside its shards."""

from contextlib import suppress
from datetime import UTC, datetime

from retrain.layout import Layout
from retrain.records import Record
from retrain.store.base import Conflict, Store


class Quarantine(Record):
    """`drops/<id>/quarantine.json`: no run takes the drop. Deleting the report gives the drop another chance."""

    drop: str
    task: str
    cause: str
    """Naming shard, key and what is wrong."""
    found_at: datetime


def quarantine(store: Store, layout: Layout, drop: str, cause: str) -> None:
    """Put a drop into quarantine; the first report stays."""
    report = Quarantine(drop=drop, task=layout.task, cause=cause, found_at=datetime.now(UTC))
    with suppress(Conflict):
        store.create(layout.quarantine(drop), report.to_bytes())
