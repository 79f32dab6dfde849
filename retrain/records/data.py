"""Drops, and the datasets made of them."""

from typing import Annotated

from pydantic import AwareDatetime, Field, NonNegativeInt

from retrain.records.base import Record, digest
from retrain.words import Split

HeldOut = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Shard(Record):
    """One tar of a drop. `name` is relative to the drop; `samples` are those used; `sha256` is of its bytes."""

    name: str
    split: Split
    samples: NonNegativeInt
    size: NonNegativeInt
    sha256: str


class LeftOut(Record):
    """A sample that no run uses, and why. `where`: its shard, or the file that it was packed from."""

    where: str
    key: str
    cause: str


class Drop(Record):
    """A drop's manifest, `drops/<id>/drop.json`: written last, it makes the drop visible.

    `classes` are this drop's class names in order of first appearance in its shards; `counts[split][class]` are
    samples after holding out. A split without shards of its own is held out of train by a hash of the sample key:
    `held_out[split]` is its share, fixed here for good. `left_out` are the bad samples that the task's limit let pass.
    `digest` covers everything but `id` and `committed_at`.
    """

    id: str
    task: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: dict[Split, dict[str, NonNegativeInt]]
    held_out: dict[Split, HeldOut]
    left_out: tuple[LeftOut, ...] = ()
    digest: str
    committed_at: AwareDatetime

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
