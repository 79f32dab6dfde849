"""The erasure of samples from a task's store: the decision and its execution."""

from typing import Literal

from pydantic import AwareDatetime, NonNegativeInt

from retrain.records.base import Record

RunUse = Literal["trained on them", "goes on from a run that was trained on them", "measured on them"]
"""A run's use of samples. A model that was only measured on them has learnt nothing from them."""


class ErasedSample(Record):
    """A sample that is erased: its row in its drop's sample list, and its content digest."""

    drop: str
    row: NonNegativeInt
    content: str
    """Digest of the content, in hex. It identifies the sample if it is uploaded again. It does not reveal the image."""


class AffectedRun(Record):
    """A run whose model or scores depend on erased samples."""

    run_id: str
    saw: RunUse
    has_model: bool
    """Whether its model is in the store."""
    is_champion: bool


class Erasure(Record):
    """`erasures/<sequence>.json`: written before anything is erased, and again after everything is erased.

    It contains no key, because the name of a file may identify a person.
    """

    sequence: NonNegativeInt
    at: AwareDatetime
    author: str
    reason: str
    samples: tuple[ErasedSample, ...]
    shards: tuple[str, ...]
    """SHA-256 of the shards that contained the samples."""
    runs: tuple[AffectedRun, ...]
    objects: NonNegativeInt = 0
    """Number of deleted objects of the store: former shards, sample lists, files of uploads."""
    completed_at: AwareDatetime | None = None
    """Time at which the erasure was complete. None: the erasure was interrupted, or is in progress."""

    def rows(self) -> dict[str, set[int]]:
        """Return the samples' rows by drop."""
        found: dict[str, set[int]] = {}
        for sample in self.samples:
            found.setdefault(sample.drop, set()).add(sample.row)
        return found

    @property
    def trained(self) -> frozenset[str]:
        """Return the ids of the runs whose models learnt from the samples."""
        return frozenset(run.run_id for run in self.runs if run.saw != "measured on them")
