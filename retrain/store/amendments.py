"""The amendments of a task: corrections of committed drops, appended and never changed."""

from collections.abc import Sequence
from datetime import UTC, datetime

from retrain.records import Amendment, Change
from retrain.store.base import ObjectStore, read_record
from retrain.store.keys import TaskKeys
from retrain.utils.parallel import map_ahead


class Amendments:
    """The amendments of one task. Those that were read once are kept, as they do not change."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys
        self._read: dict[str, Amendment] = {}

    def read(self) -> tuple[Amendment, ...]:
        """Return all amendments, oldest first. Raises `StoreError` at one that is damaged."""
        keys = sorted(entry.key for entry in self._objects.list(self._keys.amendments))
        new = [key for key in keys if key not in self._read]
        found = map_ahead(lambda key: read_record(self._objects, key, Amendment)[0], new)
        self._read |= dict(zip(new, found, strict=True))
        return tuple(self._read[key] for key in keys)

    def append(self, changes: Sequence[Change]) -> Amendment:
        """Write an amendment. Raises `Conflict` if another one came first, which the lease of the intake prevents."""
        amendment = Amendment(sequence=len(self.read()) + 1, at=datetime.now(UTC), changes=tuple(changes))
        self._objects.create(self._keys.amendment(amendment.sequence), amendment.to_bytes())
        return amendment
