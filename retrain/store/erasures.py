"""The erasures of a task: one object each, written when it is decided and once more when it is complete."""

from retrain.records import Erasure
from retrain.store.base import ObjectStore, read_record
from retrain.store.keys import TaskKeys
from retrain.utils.parallel import map_ahead


class Erasures:
    """The erasures of one task."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys

    def read(self) -> tuple[Erasure, ...]:
        """Return all erasures, oldest first. Raises `StoreError` at one that is damaged."""
        keys = sorted(entry.key for entry in self._objects.list(self._keys.erasures))
        return tuple(map_ahead(lambda key: read_record(self._objects, key, Erasure)[0], keys))

    def count(self) -> int:
        """Return how many erasures there are, complete or not."""
        return sum(1 for _ in self._objects.list(self._keys.erasures))

    def append(self, erasure: Erasure) -> Erasure:
        """Write a new erasure. Raises `Conflict` if another one came first, which the task's lease prevents."""
        self._objects.create(self._keys.erasure(erasure.sequence), erasure.to_bytes())
        return erasure

    def complete(self, erasure: Erasure) -> Erasure:
        """Write what an erasure came to, over what was decided."""
        key = self._keys.erasure(erasure.sequence)
        self._objects.replace(key, erasure.to_bytes(), self._objects.read(key)[1])
        return erasure
