"""Drops, and the datasets made of them."""

from datetime import datetime

from retrain.records.base import Record, digest
from retrain.words import Split


class Shard(Record):
    """One tar of a drop. `name` is relative to the drop; `sha256` is of its bytes."""

    name: str
    split: Split
    samples: int
    size: int
    sha256: str


class Drop(Record):
    """A drop's manifest, `drops/<id>/drop.json`: written last, it makes the drop visible.

    `classes` are this drop's class names in order of first appearance in its shards; `counts[split][class]` are
    samples after holding out. A split without shards of its own is held out of train by a hash of the sample key:
    `held_out[split]` is its share, fixed here for good. `digest` covers everything but `id` and `committed_at`.
    """

    id: str
    task: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: dict[Split, dict[str, int]]
    held_out: dict[Split, float]
    digest: str
    committed_at: datetime

    def samples(self, split: Split) -> int:
        """Number of samples in a split."""
        return sum(self.counts.get(split, {}).values())


class DropRef(Record):
    """A drop as a dataset names it."""

    id: str
    digest: str
    samples: int
    """Training samples."""


class Dataset(Record):
    """An ordered list of drops and the class map over them: class k is `classes[k]`, append-only."""

    drops: tuple[DropRef, ...]
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identity of the data: the drops' digests, in order."""
        return digest([drop.digest for drop in self.drops])

    @property
    def samples(self) -> int:
        """Training samples."""
        return sum(drop.samples for drop in self.drops)
