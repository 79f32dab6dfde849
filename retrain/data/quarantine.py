"""Drops that cannot be used, each with a report for people beside its shards."""

import logging
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from retrain.data.drops import shelf
from retrain.errors import DamagedDrop
from retrain.layout import Layout
from retrain.records import Record
from retrain.store.base import Conflict, Missing, Store

log = logging.getLogger("retrain")


class Quarantine(Record):
    """`drops/<id>/quarantine.json`: no run takes the drop. Deleting the report gives the drop another chance."""

    drop: str
    task: str
    cause: str
    """Naming shard, key and what is wrong."""
    found_at: datetime


def quarantine(store: Store, layout: Layout, drop: str, cause: str) -> None:
    """Put a drop into quarantine, and say so; the first report stays."""
    report = Quarantine(drop=drop, task=layout.task, cause=cause, found_at=datetime.now(UTC))
    with suppress(Conflict):
        store.create(layout.quarantine(drop), report.to_bytes())
    log.warning("%s: drop %s is in quarantine: %s", layout.task, drop, cause)


def set_aside(store: Store, layout: Layout, damaged: DamagedDrop) -> None:
    """Put a drop into quarantine that proved damaged: the next plan does without it."""
    quarantine(store, layout, damaged.drop, str(damaged))


def causes(store: Store, layout: Layout) -> dict[str, str]:
    """Return why each drop in quarantine is there."""
    found = {}
    for drop in sorted(shelf(store, layout).quarantined):
        with suppress(Missing):  # somebody has just given it another chance
            found[drop] = _cause(store.read(layout.quarantine(drop))[0])
    return found


def _cause(report: bytes) -> str:
    try:
        return Quarantine.model_validate_json(report).cause
    except ValidationError:
        return "a report that somebody wrote by hand"
