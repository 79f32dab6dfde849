"""What the ledger has gained since the last look."""

import logging
from collections.abc import Iterator
from pathlib import PurePosixPath

from retrain import ledger
from retrain.errors import StoreError
from retrain.layout import Layout
from retrain.records import RunRecord
from retrain.store.base import Store
from retrain.store.parallel import ask_all

log = logging.getLogger("retrain")


class LedgerReader:
    """Reads every record of one task's ledger once."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store, self._layout = store, layout
        self._read: set[str] = set()
        self.errors = 0
        """Times that the ledger, or a record of it, could not be read."""

    def __len__(self) -> int:
        """Return how many records were read."""
        return len(self._read)

    def new(self) -> Iterator[RunRecord]:
        """Yield the records that were not yielded before, in no particular order.

        One that cannot be read is logged, counted and tried again the next time. Raises `StoreError` if the ledger
        cannot be listed.
        """
        run_ids = [run_id for run_id in self._list() if run_id not in self._read]
        for record in ask_all(self._find, run_ids):
            if record:
                self._read.add(record.run_id)
                yield record

    def _list(self) -> list[str]:
        try:
            keys = [PurePosixPath(entry.key) for entry in self._store.list(self._layout.ledger)]
        except StoreError:
            self.errors += 1
            raise
        return [key.stem for key in keys if key.suffix == ".json"]

    def _find(self, run_id: str) -> RunRecord | None:
        try:
            return ledger.find(self._store, self._layout, run_id)
        except StoreError as error:
            log.warning("%s", error)
            self.errors += 1
            return None
