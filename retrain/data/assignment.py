"""Find the split and class of each sample in shards: from the drop's sample table, or from keys if it has no table."""

from collections.abc import Collection
from typing import NamedTuple

from retrain.config import SPLITS, Split
from retrain.data.dataset import split_of, splits_within
from retrain.data.sample_table import USES, SampleTable, read_table
from retrain.data.table_making import read_or_make_table
from retrain.records import Drop
from retrain.store.task_store import TaskStore

UNUSED = frozenset({"duplicate", "conflict", "bad"})
"""Uses (`sample_table.Use`) of the samples that `Shard.samples` does not count."""


class Place(NamedTuple):
    """The split and class of a sample."""

    split: Split
    class_name: str


class Assignment:
    """The places of the samples of one drop."""

    def __init__(self, drop: Drop, table: SampleTable | None) -> None:
        self._drop, self._table = drop, table
        self._rows: tuple[int, dict[str, int]] = (-1, {})

    @classmethod
    def of(cls, drop: Drop, store: TaskStore) -> "Assignment":
        """Read the places of a drop's samples. Raises `DamagedDrop` if the drop's sample table is damaged."""
        return cls(drop, read_or_make_table(drop, store) if drop.changes else read_table(drop, store))

    def splits(self, shard: int) -> set[Split]:
        """Return the splits that the samples of a shard may belong to. `shard` is its position in the manifest."""
        if self._table is None:
            return splits_within(self._drop.shards[shard].split, self._drop.held_out)
        uses = set(self._table.use[self._table.shard == shard].tolist())
        return {split for place, split in enumerate(SPLITS) if place in uses}

    def skipped(self, shard: int) -> Collection[str]:
        """Return the keys of a shard's samples that were not counted when the drop was committed."""
        bad = {bad.key for bad in self._drop.left_out if bad.where == self._drop.shards[shard].name}
        if self._table is None:
            return bad
        return bad | {key for key, row in self._rows_of(shard).items() if USES[self._table.use[row]] in UNUSED}

    def place(self, shard: int, key: str, class_name: str) -> Place | None:
        """Return a sample's split and class, or None if no run uses it. `class_name` is its class in the shard."""
        if self._table is None:
            return Place(split_of(key, self._drop.shards[shard].split, self._drop.held_out), class_name)
        row = self._rows_of(shard).get(key)
        if row is None or not (self._table.use[row] < len(SPLITS)):
            return None
        return Place(SPLITS[self._table.use[row]], self._table.class_of(row))

    def _rows_of(self, shard: int) -> dict[str, int]:
        """Return the rows of a shard's samples by key. The rows of the current shard are kept in memory."""
        assert self._table is not None
        if self._rows[0] != shard:
            self._rows = shard, {self._table.keys[row]: row for row in self._table.of_shard(shard)}
        return self._rows[1]
