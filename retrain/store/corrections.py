"""Read and write the amendments and erasures of a task's committed drops."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from retrain.records import Amendment, Change, Erasure
from retrain.records.drop import ERASED, Changes, changes_by_drop
from retrain.store.base import ObjectStore, read_record
from retrain.store.keys import TaskKeys
from retrain.utils.parallel import map_ahead


class Amendments:
    """The amendments of one task, each read from the store only once."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys
        self._read: dict[str, Amendment] = {}

    def read(self) -> tuple[Amendment, ...]:
        """Return all amendments, oldest first. Raises `StoreError` if one is damaged."""
        keys = sorted(entry.key for entry in self._objects.list(self._keys.amendments))
        new = [key for key in keys if key not in self._read]
        found = map_ahead(lambda key: read_record(self._objects, key, Amendment)[0], new)
        self._read |= dict(zip(new, found, strict=True))
        return tuple(self._read[key] for key in keys)

    def by_drop(self) -> Mapping[str, Changes]:
        """Return the changes of each drop that has some. Raises the same errors as `read`."""
        return changes_by_drop(self.read())

    def of_drop(self, drop_id: str) -> Changes:
        """Return the changes of a drop. Raises the same errors as `read`."""
        return self.by_drop().get(drop_id, ())

    def newest(self) -> Amendment | None:
        """Return the newest amendment, or None. Raises the same errors as `read`."""
        return next(reversed(self.read()), None)

    def prepare(self, changes: Sequence[Change], upload: str | None = None) -> Amendment:
        """Return the amendment that `append` would write now."""
        return Amendment(sequence=_next(self.newest()), at=datetime.now(UTC), changes=tuple(changes), upload=upload)

    def append(self, changes: Sequence[Change], upload: str | None = None) -> Amendment:
        """Write an amendment. `upload` is the id of the upload that becomes this amendment, if any.

        Raises `Conflict` if another process wrote an amendment first. The lease for commits prevents this.
        """
        amendment = self.prepare(changes, upload)
        self._objects.create(self._keys.amendment(amendment.sequence), amendment.to_bytes())
        return amendment

    def of_upload(self, drop_id: str) -> Amendment | None:
        """Return the amendment that an upload became, or None."""
        return next((one for one in self.read() if one.upload == drop_id), None)

    def forget_keys(self, rows: Mapping[str, Collection[int]]) -> None:
        """Remove the keys of samples from all amendments. `rows` has the samples' row numbers by drop."""
        for amendment in self.read():
            changes = tuple(
                change.model_copy(update={"key": ERASED}) if change.row in rows.get(change.drop, ()) else change
                for change in amendment.changes
            )
            if changes != amendment.changes:
                nameless = amendment.model_copy(update={"changes": changes})
                key = self._keys.amendment(amendment.sequence)
                self._objects.write(key, nameless.to_bytes())
                self._read[key] = nameless


class Erasures:
    """The erasures of one task."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys

    def read(self) -> tuple[Erasure, ...]:
        """Return all erasures, oldest first. Raises `StoreError` if one is damaged."""
        keys = sorted(entry.key for entry in self._objects.list(self._keys.erasures))
        return tuple(map_ahead(lambda key: read_record(self._objects, key, Erasure)[0], keys))

    def newest(self) -> Erasure | None:
        """Return the newest erasure, complete or not, or None. Raises the same errors as `read`."""
        keys = [entry.key for entry in self._objects.list(self._keys.erasures)]
        return read_record(self._objects, max(keys), Erasure)[0] if keys else None

    def next_sequence(self) -> int:
        """Return the number of the next erasure. Raises the same errors as `read`."""
        return _next(self.newest())

    def count(self) -> int:
        """Return the number of erasures, complete or not."""
        return sum(1 for _ in self._objects.list(self._keys.erasures))

    def append(self, erasure: Erasure) -> Erasure:
        """Write a new erasure.

        Raises `Conflict` if another process wrote an erasure first. The task's lease prevents this.
        """
        self._objects.create(self._keys.erasure(erasure.sequence), erasure.to_bytes())
        return erasure

    def complete(self, erasure: Erasure) -> Erasure:
        """Replace the record of an erasure's start by the record of its result."""
        key = self._keys.erasure(erasure.sequence)
        self._objects.replace(key, erasure.to_bytes(), self._objects.read(key)[1])
        return erasure


def _next(newest: Amendment | Erasure | None) -> int:
    """Return the number after the newest record. Earlier records may be missing in a restored store."""
    return newest.sequence + 1 if newest else 1
