"""The ledger: one immutable record for each ended run, with its savings."""

from retrain.errors import StoreError
from retrain.records import RunRecord, parse_record
from retrain.store.base import Conflict, Missing, ObjectStore
from retrain.store.keys import TaskKeys
from retrain.utils.parallel import map_ahead


class DamagedRecord(StoreError):
    """A record of the ledger is damaged, or this version of `retrain` cannot read its format."""


class Ledger:
    """The records of a task's ended runs, each written once."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys

    def write(self, record: RunRecord) -> RunRecord:
        """Add a record, and return the record in the ledger. A run's first record is never replaced."""
        key = self._keys.record(record.run_id)
        try:
            self._objects.create(key, record.to_bytes())
        except Conflict:
            return self._parse(key)
        return record

    def read(self) -> list[RunRecord]:
        """Return all records in the order in which their runs ended."""
        keys = [entry.key for entry in self._objects.list(self._keys.ledger) if entry.key.endswith(".json")]
        return sorted(map_ahead(self._parse, keys), key=lambda record: (record.ended_at, record.run_id))

    def run_ids(self) -> set[str]:
        """Return the ids of the runs that have a record, without reading records."""
        names = (entry.key.removeprefix(self._keys.ledger) for entry in self._objects.list(self._keys.ledger))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def find(self, run_id: str) -> RunRecord | None:
        """Return one run's record, or None if it has not ended."""
        try:
            return self._parse(self._keys.record(run_id))
        except Missing:
            return None

    def final(self, run_id: str) -> RunRecord | None:
        """Return the last record of a retraining, including its escalations. Return None while it has not ended."""
        record = self.find(run_id)
        return self.final(record.followed_by) if record and record.followed_by else record

    def _parse(self, key: str) -> RunRecord:
        data, _ = self._objects.read(key)
        try:
            return parse_record(RunRecord, data, f"{self._objects.url}/{key}", DamagedRecord)
        except DamagedRecord as damaged:
            raise DamagedRecord(f"{damaged}. Restore a damaged record from a copy of the store") from damaged
