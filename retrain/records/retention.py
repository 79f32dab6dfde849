"""The files of a task that `retrain gc` removes, and the record that it leaves in their place."""

from datetime import datetime

from retrain.records.base import Record


class Removed(Record):
    """`runs/<run-id>/removed.json`, written before a run's large files go: its records stay, its model does not."""

    run_id: str
    at: datetime
    bytes: int
    """Size of its files."""


class Removal(Record):
    """Files that no later step can need: of one run, of no manifest, claims, or files of this machine's cache."""

    what: str
    """The run, the folder, claims or cache."""
    why: str
    is_marked: bool
    """Whether `removed.json` is left in their place: they belong to a run in the ledger."""
    keys: tuple[str, ...]
    bytes: int


class Retention(Record):
    """The files of a task or of the cache that can be removed, and the runs that keep theirs, each with the reason."""

    task: str | None
    """None: this machine's cache, shared by all tasks. `removals` then has one element, and its keys are paths."""
    removals: tuple[Removal, ...]
    kept: dict[str, str]
    """Why each run that has a model, an index or a state keeps it. For a cache, why it was left alone."""
    is_done: bool = False
    """False: nothing was removed yet."""

    @property
    def bytes(self) -> int:
        """Return how much the removals free."""
        return sum(removal.bytes for removal in self.removals)
