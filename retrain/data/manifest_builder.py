"""Collect the samples of a drop as they are read, and build its manifest."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from retrain.config import SPLITS, Split
from retrain.data.identity import Resolved
from retrain.data.labels import NAMED, Unread, name_files
from retrain.data.sample_table import USES, SampleRow, SampleTable
from retrain.errors import DropError
from retrain.records import Drop, LeftOut, Reading, SampleList, Shard, Uploaded
from retrain.records.drop import drop_digest
from retrain.utils.text import pluralize


class BadSamples:
    """The bad samples of one drop, as they are found."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._found: list[LeftOut] = []
        self._unread: list[Unread] = []

    @property
    def is_refused(self) -> bool:
        """Return whether the drop will be refused, because it has a bad sample and the task allows none."""
        return self._max_share == 0 and bool(self._found)

    def add(self, unread: Unread, bad: LeftOut) -> None:
        """Leave out a bad sample. `unread` names it in errors."""
        self._found.append(bad)
        self._unread.append(unread)

    def add_unread(self, unread: Sequence[Unread]) -> None:
        """Leave out files that are not samples."""
        for bad in unread:
            self.add(bad, LeftOut(where=bad.place, key=bad.place, cause=bad.cause))

    def finish(self, samples: int) -> tuple[LeftOut, ...]:
        """Return the bad samples.

        Raises `DropError`, naming the first of them, if there are too many for this number of good samples.
        """
        listed = ". `retrain drop pack --dry-run` lists all files of a local folder" if len(self._found) > NAMED else ""
        if self.is_refused:
            advice = "Correct or remove them, or leave a share of the samples out with data.max_bad_share"
            raise DropError(f"{name_files(self._unread)}. {advice}{listed}")
        if excess := describe_excess(self._found, samples, self._max_share):
            raise DropError(f"{excess}{listed}")
        return tuple(self._found)


def describe_excess(bad: Sequence[LeftOut], samples: int, max_share: float) -> str | None:
    """Return a sentence if a drop has too many bad samples for this number of good samples. Otherwise return None."""
    total = samples + len(bad)
    if len(bad) <= max_share * total:
        return None
    named = "; ".join(f"{one.place}: {one.cause}" for one in sorted(bad, key=lambda one: one.place)[:NAMED])
    more = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    return f"{len(bad):,} of {total:,} samples are bad, and data.max_bad_share allows {max_share:.2%}: {named}{more}"


@dataclass(frozen=True)
class ReadDrop:
    """A drop after reading and validation, before the comparison with the committed drops."""

    root: str
    """The source that it was read from, for messages."""
    table: SampleTable
    """Samples of the drop with the uses that the source states. The use is train if the source has no splits."""
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...]
    held_out: Mapping[Split, float]
    """Share of the training samples that is held out for each split."""
    source: str
    """Digest of the samples' splits, keys, classes and contents. It does not depend on the order of the samples."""
    reading: Reading
    uploaded: Uploaded | None = None
    """Files in the store that the drop was packed from."""

    @classmethod
    def of(
        cls,
        root: str,
        rows: Collection[SampleRow],
        shards: Iterable[Shard],
        bad: BadSamples,
        held_out: Mapping[Split, float],
        reading: Reading,
        uploaded: Uploaded | None = None,
    ) -> "ReadDrop":
        """Return a drop of these samples. Raises `DropError` if too many samples were bad."""
        left_out = bad.finish(sum(row.use != "bad" for row in rows))
        source = _source_digest(rows)  # before the table is made: memory then has only one of them
        return cls(root, SampleTable.of(rows), tuple(shards), left_out, held_out, source, reading, uploaded)

    def refusal(self, max_bad_share: float) -> str | None:
        """Return a sentence if the drop has more bad samples than this share. Otherwise return None."""
        return describe_excess(self.left_out, int(np.sum(self.table.use != USES.index("bad"))), max_bad_share)

    def notes(self) -> Iterator[str]:
        """Yield notes on class names, and on bad samples that were left out."""
        yield from self.reading.notes
        if self.left_out:
            first = self.left_out[0]
            yield f"{pluralize(len(self.left_out), 'bad sample')} left out, the first: {first.place}: {first.cause}"


def _source_digest(rows: Iterable[SampleRow]) -> str:
    lines = sorted(
        f"{row.use}\0{row.key}\0{row.class_name}\0{row.facts.content.hex() if row.facts else ''}\n" for row in rows
    )
    sha256 = hashlib.sha256()
    for line in lines:
        sha256.update(line.encode())
    return sha256.hexdigest()


def build_manifest(
    drop_id: str, task: str, read: ReadDrop, resolved: Resolved, listed: SampleList, missing: Collection[Split]
) -> Drop:
    """Return the manifest of a drop, with the final uses of its samples.

    Raises `DropError` if a split is empty both here and in the task's earlier drops (`missing`).
    """
    table = resolved.table
    counts = table.counts()
    samples = sum(sum(each.values()) for each in counts.values())
    for split in SPLITS:
        if split in missing and not counts[split]:
            share = read.held_out.get(split)
            why = (
                f"a task's first drop needs some to {'train on' if split == 'train' else 'measure on'}"
                if share is None
                else f"none was drawn for the share {share:g} of {split}; add images, or raise data.{split}_share"
            )
            raise DropError(f"{read.root}: no {split} samples among {pluralize(samples, 'sample')}: {why}")
    if not samples:
        reasons = "".join(f"; {note}" for note in resolved.notes())
        raise DropError(f"{read.root}: no sample in it can be used{reasons}")
    in_shard = np.bincount(table.shard[table.is_used()], minlength=len(read.shards)).tolist()
    drop = Drop(
        id=drop_id,
        task=task,
        classes=tuple(name for name in table.classes if any(name in each for each in counts.values())),
        shards=tuple(
            shard.model_copy(update={"samples": number}) for shard, number in zip(read.shards, in_shard, strict=True)
        ),
        counts=counts,
        held_out=dict(read.held_out),
        left_out=read.left_out,
        sample_list=listed,
        source=read.source,
        uploaded=read.uploaded,
        reading=read.reading.model_copy(update={"notes": (*read.reading.notes, *resolved.notes())}),
        digest="",
        committed_at=datetime.now(UTC),
    )
    return drop.model_copy(update={"digest": drop_digest(drop)})
