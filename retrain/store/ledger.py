"""The ledger: one immutable record for each ended run, and what it says was saved."""

from functools import partial

from retrain.records import RunRecord, parse_record
from retrain.store.base import Conflict, Missing, ObjectStore
from retrain.store.layout import Layout
from retrain.utils.parallel import map_ahead


def write(store: ObjectStore, layout: Layout, record: RunRecord) -> RunRecord:
    """Add a record; the record that is in the ledger in the end is returned: the first one written wins."""
    try:
        store.create(layout.record(record.run_id), record.to_bytes())
    except Conflict:
        return _parse(store, layout.record(record.run_id))
    return record


def read(store: ObjectStore, layout: Layout) -> list[RunRecord]:
    """Return all records in the order in which their runs ended."""
    keys = [entry.key for entry in store.list(layout.ledger) if entry.key.endswith(".json")]
    return sorted(map_ahead(partial(_parse, store), keys), key=lambda record: (record.ended_at, record.run_id))


def find(store: ObjectStore, layout: Layout, run_id: str) -> RunRecord | None:
    """Return one run's record, or None if it has not ended."""
    try:
        return _parse(store, layout.record(run_id))
    except Missing:
        return None


def _parse(store: ObjectStore, key: str) -> RunRecord:
    data, _ = store.read(key)
    return parse_record(RunRecord, data, f"{store.url}/{key}")
