"""The files of a task that `retrain gc` removes, and the record that it leaves in their place."""

from pydantic import AwareDatetime

from retrain.records.base import Record


class Removed(Record):
    """`runs/<run-id>/removed.json`: written before a run's large files are removed. The run's records stay."""

    run_id: str
    at: AwareDatetime
    bytes: int
    """Size of the removed files."""


class Removal(Record):
    """Files that no later step needs: files of one run, files that no manifest names, claims, or cached files.

    Claims are the files that assign a drop to a run.
    """

    what: str
    """Name of the run or folder, or `claims` or `cache`."""
    why: str
    is_marked: bool
    """Whether `removed.json` replaces the files. This is the case for files of a run in the ledger."""
    keys: tuple[str, ...]
    bytes: int


class Retention(Record):
    """The files of a task or of the cache that can be removed, and the runs that keep their files, with the reasons."""

    task: str | None
    """None: this machine's cache, shared by all tasks. `removals` then has one element, and its keys are paths."""
    removals: tuple[Removal, ...]
    kept: dict[str, str]
    """Reason why a run keeps its model, learning-speed index or checkpoints, by run. For a cache: why it stays."""
    is_done: bool = False
    """False: nothing has been removed yet."""

    @property
    def bytes(self) -> int:
        """Return the number of bytes that the removals free."""
        return sum(removal.bytes for removal in self.removals)
