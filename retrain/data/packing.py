"""Pack a source into committed drops: read, validate, write shards, upload, and write the manifest last."""

import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from retrain.config import SPLITS, Split
from retrain.config.task import Task
from retrain.data.committing import DropCommitter, Packed
from retrain.data.content import ImageFacts, examine_or_explain
from retrain.data.dataset import held_out_shares
from retrain.data.decoded import DecodedSamples
from retrain.data.images import Pixels
from retrain.data.labels import Sample, Unread
from retrain.data.manifest_builder import BadSamples, ReadDrop
from retrain.data.sample_table import NOWHERE, SampleRow
from retrain.data.shards import Encoded, write_shards
from retrain.data.source import Source, survey_source
from retrain.data.staging import Staging, split_into_parts, stable_hash
from retrain.errors import DropError
from retrain.records import LeftOut, Shard, Uploaded
from retrain.records.drop import DROP_ID
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import in_chunks, map_ahead, parallel_map
from retrain.utils.text import pluralize

log = logging.getLogger("retrain")

ON_DISK = 4
"""Largest number of shards on the local disk at once. They take at most 0.5 GB. More would not be faster, because each
shard is sent in several parts at once."""

PACKED_FOLDER = "packed/"
"""Folder of a drop for the shards that are made from an upload."""

ALL_BAD = 1 - 1e-9
"""Value of `data.max_bad_share` with which a dry run reads the source, so that it finds all bad samples."""

READ_AT_ONCE = 4
"""Number of images that a thread reads in one call, one after another."""
READS_AHEAD = 16
"""Number of reads to prefetch. Reading may wait for a store, and meanwhile the cores validate earlier samples."""


def pack(
    source: Path,
    task: Task,
    store: TaskStore,
    *,
    staging: Staging | None = None,
    part: int | None = None,
    drop_id: str | None = None,
    compare_with: Collection[str] | None = None,
    dry_run: bool = False,
    tell: Callable[[str], None] = log.info,
) -> list[Packed]:
    """Commit a source to the store as one drop, or as one drop for each part of a staging.

    `part`, from 1, selects one part. Only samples that the task lacks are packed. A drop's id is `drop_id`. By default,
    it contains a digest of the drop's samples. Nothing is written to the store before everything is validated. `tell`
    is called with findings, such as duplicates. `compare_with` has the ids of the drops to compare with, for runs that
    are trained only on these drops. By default, these are all drops of the task.

    With `dry_run`, nothing is written, and the returned drops are the drops that would be committed. Raises `DropError`
    if the source, an image in it or an argument is wrong, if a split would be empty, or if a drop with this id has
    other content.
    """
    max_bad_share = task.data.max_bad_share
    if dry_run:  # continue after bad samples, and report all of them
        task = task.model_copy(update={"data": task.data.model_copy(update={"max_bad_share": ALL_BAD})})
    found = survey_source(source, task.data)
    chosen = _choose(found, staging, part)
    check_drop_id(drop_id, len(chosen))
    committer = DropCommitter(task, store, tell, compare_with, dry_run=dry_run)
    committer.refresh()
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        read = []
        for number, source_part in enumerate(chosen):
            folder = Path(temporary, str(number))
            folder.mkdir()
            drop = _read(source_part, committer, folder)
            read.append((drop, drop_id or f"d-{drop.source[:12]}", folder))
        checked = committer.check([(drop, name) for drop, name, _ in read], tell if dry_run else None)
        if dry_run:
            refusals = [drop.refusal(max_bad_share) for drop, _, _ in read]
            return [packed._replace(refusal=why) for packed, why in zip(checked, refusals, strict=True)]
        return [_commit(drop, folder, committer, name) for drop, name, folder in read]


def pack_by_shards(
    source: Source,
    task: Task,
    store: TaskStore,
    drop_id: str,
    uploaded: Uploaded | None = None,
    tell: Callable[[str], None] = log.info,
    decoded: DecodedSamples | None = None,
) -> Packed:
    """Commit a source as a drop with this id, with at most `ON_DISK` shards on the local disk at once.

    The shards go into `PACKED_FOLDER`. The producer's files (`uploaded`) are outside this folder. Each shard is sent to
    the store right after it is written. `decoded` gets the decoded images. Raises `DropError` as `pack` does. Shards
    that were sent before the error stay in the store, but nothing reads them.
    """
    committer = DropCommitter(task, store, tell)
    committer.refresh()
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        folder = Path(temporary)

        def send(shard: Shard) -> Shard:
            name = f"{PACKED_FOLDER}{shard.name}"
            store.objects.upload(folder / shard.name, store.keys.drop_file(drop_id, name))
            (folder / shard.name).unlink()
            return shard.model_copy(update={"name": name})

        read = _read(source, committer, folder, lambda shards: map_ahead(send, shards, ON_DISK), decoded)
    packed = committer.commit(replace(read, uploaded=uploaded), drop_id)
    if decoded and committer.written:
        decoded.save(packed.drop, committer.written)
    return packed


def _choose(source: Source, staging: Staging | None, part: int | None) -> tuple[Source, ...]:
    """Return the parts of a source, or only the part with this number.

    Each part has the complete list of the source's files that are not samples. Raises `DropError` if there is no such
    part.
    """
    parts = split_into_parts(source.samples, staging) if staging else (source.samples,)
    staged = tuple(replace(source, samples=samples) for samples in parts)
    if part is None:
        return staged
    if not 1 <= part <= len(staged):
        hint = "" if staging else "; divide it with --share or --classes"
        raise DropError(f"part {part} does not exist: the source has {pluralize(len(staged), 'part')}{hint}")
    return (staged[part - 1],)


def check_drop_id(drop_id: str | None, drops: int) -> None:
    """Raise `DropError` unless this id is valid for this number of drops."""
    if drop_id is not None and not DROP_ID.fullmatch(drop_id):
        raise DropError(f"drop id {drop_id!r}: allowed are 1 to 63 lower-case letters and digits, with . _ - inside")
    if drop_id and drops > 1:
        raise DropError(f"drop id {drop_id}: one id cannot name {drops} drops; choose a part with --part")


def _read(
    source: Source,
    committer: DropCommitter,
    folder: Path,
    through: Callable[[Iterator[Shard]], Iterator[Shard]] = iter,
    decoded: DecodedSamples | None = None,
) -> ReadDrop:
    """Validate the samples, and write shards of the good and new samples into `folder`.

    Each shard is written when `through` requests it.
    """
    reader = _SampleReader(committer, decoded)
    reader.bad.add_unread(source.unread)
    shards = tuple(through(reader.shards(source.samples, folder)))
    held_out = held_out_shares({sample.split for sample in source.samples if sample.split}, committer.task.data)
    rows = reader.rows + reader.not_packed
    return ReadDrop.of(source.root, rows, shards, reader.bad, held_out, source.reading)


class _SampleReader:
    """A reader that validates the samples of a source.

    `rows` has the packed samples, in the order of the shards. `not_packed` has all others.
    """

    def __init__(self, committer: DropCommitter, decoded: DecodedSamples | None) -> None:
        self._committer, self._frame, self._decoded = committer, committer.task.data.frame, decoded
        self.bad = BadSamples(committer.task.data.max_bad_share)
        self.rows: list[SampleRow] = []
        self.not_packed: list[SampleRow] = []
        self._shards = 0

    def shards(self, samples: tuple[Sample, ...], folder: Path) -> Iterator[Shard]:
        """Write and yield shards of the good samples, split by split.

        Samples are sorted by a hash of their keys and not by class. A streamed run shuffles only a few shards together,
        so each shard should contain samples of many classes.
        """
        for split in SPLITS:
            members = sorted(
                (s for s in samples if (s.split or "train") == split), key=lambda sample: stable_hash(sample.key, 0)
            )
            for shard in write_shards(self._good(members, split), split, folder):
                yield shard
                self._shards += 1

    def _good(self, samples: Iterable[Sample], split: Split) -> Iterator[Encoded]:
        """Yield the samples whose images can be decoded and that the task lacks.

        If the drop will be refused, yield no more samples, but find all bad ones.
        """
        read = chain.from_iterable(map_ahead(_read_bytes, in_chunks(samples, READ_AT_ONCE), READS_AHEAD))
        for sample, data, found, pixels in parallel_map(self._examine_sample, read):
            if isinstance(found, str):
                left_out = LeftOut(where=sample.entry.place, key=sample.key, cause=found)
                self.bad.add(Unread.of(sample.entry, found), left_out)
                self.not_packed.append(SampleRow(sample.key, sample.class_name, "bad", NOWHERE, None))
            elif self.bad.is_refused or self._committer.can_leave_out(found.content, sample.class_name):
                self.not_packed.append(SampleRow(sample.key, sample.class_name, split, NOWHERE, found))
            else:
                self.rows.append(SampleRow(sample.key, sample.class_name, split, self._shards, found))
                if self._decoded and pixels is not None:
                    self._decoded.add(pixels)
                yield Encoded(sample.key, sample.class_name, sample.extension, data)

    def _examine_sample(self, read: tuple[Sample, bytes]) -> tuple[Sample, bytes, ImageFacts | str, Pixels | None]:
        return *read, *examine_or_explain(read[1], self._frame, self._decoded is not None)


def _read_bytes(samples: Iterable[Sample]) -> list[tuple[Sample, bytes]]:
    read = []
    for sample in samples:
        try:
            read.append((sample, sample.entry.read()))
        except OSError as error:
            raise DropError(f"{sample.entry}: cannot be read: {error.strerror}") from error
    return read


def _commit(read: ReadDrop, folder: Path, committer: DropCommitter, drop_id: str) -> Packed:
    store = committer.store

    def upload() -> None:
        names = [shard.name for shard in read.shards]
        for _ in map_ahead(
            lambda name: store.objects.upload(folder / name, store.keys.drop_file(drop_id, name)), names
        ):
            pass

    return committer.commit(read, drop_id, upload)
