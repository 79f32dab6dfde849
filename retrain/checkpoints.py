"""A run's saved states in the store: the newest two, each named by its own digest."""

import hashlib

from retrain.layout import Layout
from retrain.store.base import Entry, Missing, Store

KEPT = 2


class Checkpoints:
    """The states of one run, `state/<iteration>-<digest>.safetensors`."""

    def __init__(self, store: Store, layout: Layout, run_id: str) -> None:
        self.store, self.prefix = store, layout.run(run_id, "state/")

    def save(self, iteration: int, state: bytes) -> None:
        """Add a state, then remove all but the newest two."""
        self.store.write(f"{self.prefix}{iteration:012d}-{_digest(state)}.safetensors", state)
        for entry in self._newest_first()[KEPT:]:
            self.store.delete(entry.key)

    def load(self) -> bytes | None:
        """Return the newest state whose bytes are those that were saved, or None."""
        for entry in self._newest_first():
            try:
                state, _ = self.store.read(entry.key)
            except Missing:
                continue
            if entry.key.endswith(f"-{_digest(state)}.safetensors"):
                return state
        return None

    def clear(self) -> None:
        """Remove all states: the run has ended, its result is in the store."""
        for entry in self._newest_first():
            self.store.delete(entry.key)

    def _newest_first(self) -> list[Entry]:
        return sorted(self.store.list(self.prefix), key=lambda entry: entry.key, reverse=True)


def _digest(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()[:32]
