"""From a source to committed drops: read, validate, write shards, upload, and last of all the manifest."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from retrain.config import Split
from retrain.config.frame import Size
from retrain.config.task import Task
from retrain.data.dataset import held_out_shares
from retrain.data.images import decode_error
from retrain.data.manifest_builder import BadSamples, ManifestBuilder
from retrain.data.shards import Encoded, write_shards
from retrain.data.source import SPLITS, Sample, Source, survey_source
from retrain.data.staging import Staging, split_into_parts, stable_hash
from retrain.errors import DropError
from retrain.records import Drop, LeftOut, Shard
from retrain.records.drop import DROP_ID
from retrain.store.base import Conflict
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead, parallel_map

ON_DISK = 4
"""Shards of an upload that lie here at once, 0.5 GB at most; each is sent in parts, so that few are quick enough."""

OURS = "packed/"
"""Folder of a drop for the shards that an upload is packed into."""

ALL_BAD = 1 - 1e-9
"""Share of bad samples below which a dry run goes on."""

AHEAD = 64
"""Images read before they are judged: reading one may be waiting for a store, and judging it takes a core."""


class Packed(NamedTuple):
    """A committed drop, and whether it is new. False: a drop of this name and content was there already."""

    drop: Drop
    new: bool


def pack(
    source: Path,
    task: Task,
    store: TaskStore,
    *,
    staging: Staging | None = None,
    part: int | None = None,
    drop_id: str | None = None,
    dry_run: bool = False,
) -> list[Packed]:
    """Commit a source to the store as one drop, or as one for each part of a staging (`part`: only that one, from 1).

    A drop is called `drop_id`, or else after its digest. Nothing is written to the store before all is validated.
    Raises `DropError` if the source, an image in it or an argument is wrong, if a split would be empty, or if a drop
    of this name has other content. `dry_run`: nothing is written; the drops are what would be committed.
    """
    if dry_run:  # what the task would refuse is named, too
        task = task.model_copy(update={"data": task.data.model_copy(update={"max_bad_share": ALL_BAD})})
    found = survey_source(source, task.data)
    chosen = _choose(found, staging, part)
    check_id(drop_id, len(chosen))
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        drops = []
        for number, source_part in enumerate(chosen):
            folder = Path(temporary, str(number))
            folder.mkdir()
            drops.append((_prepare(source_part, task, folder, drop_id), folder))
        if dry_run:
            return [Packed(drop, store.drops.find(drop.id) is None) for drop, _ in drops]
        return [_commit(drop, folder, store) for drop, folder in drops]


def pack_by_shards(source: Source, task: Task, store: TaskStore, drop_id: str) -> Drop:
    """Commit a source as a drop of this id, of which `ON_DISK` shards lie here at once, however many it has.

    Its shards lie in the folder `OURS` of the drop, apart from what the producer put there. Each goes to the store as
    soon as it is written. Raises `DropError` as `pack` does; the shards that went before then stay in the store, where
    nothing reads them.
    """
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        folder = Path(temporary)

        def send(shard: Shard) -> Shard:
            name = f"{OURS}{shard.name}"
            store.objects.upload(folder / shard.name, store.keys.shard(drop_id, name))
            (folder / shard.name).unlink()
            return shard.model_copy(update={"name": name})

        drop = _prepare(source, task, folder, drop_id, lambda shards: map_ahead(send, shards, ON_DISK))
    return _seal(drop, store).drop


def _choose(source: Source, staging: Staging | None, part: int | None) -> tuple[Source, ...]:
    """Divide a source's samples. What is no sample is reported with each part."""
    parts = split_into_parts(source.samples, staging) if staging else (source.samples,)
    staged = tuple(replace(source, samples=samples) for samples in parts)
    if part is None:
        return staged
    if not 1 <= part <= len(staged):
        raise DropError(f"part {part}: there are {len(staged)}; allowed is 1 to {len(staged)}")
    return (staged[part - 1],)


def check_id(drop_id: str | None, drops: int) -> None:
    """Raise `DropError` unless this can name so many drops."""
    if drop_id is not None and not DROP_ID.fullmatch(drop_id):
        raise DropError(f"drop id {drop_id!r}: allowed are 1 to 63 lower-case letters and digits, with . _ - inside")
    if drop_id and drops > 1:
        raise DropError(f"drop id {drop_id}: there are {drops} parts to name; choose one of them")


def _prepare(
    source: Source,
    task: Task,
    folder: Path,
    drop_id: str | None,
    through: Callable[[Iterator[Shard]], Iterator[Shard]] = iter,
) -> Drop:
    """Validate the samples, write the good ones' shards into `folder`, and return the manifest.

    Each shard is written when `through` asks for it.
    """
    samples = source.samples
    held_out = held_out_shares({sample.split for sample in samples if sample.split}, task.data)
    bad = BadSamples(task.data.max_bad_share)
    bad.add_unread(source.unread)
    tally = ManifestBuilder(held_out)
    shards = tuple(through(_shards(samples, task.data.frame, folder, tally, bad)))
    return tally.manifest(drop_id, task.name, shards, bad, source.root, source.reading)


def _shards(
    samples: tuple[Sample, ...], image_size: Size, folder: Path, tally: ManifestBuilder, bad: BadSamples
) -> Iterator[Shard]:
    """By a hash of their keys, not class after class: a stream mixes a few shards, and is to meet every class."""
    for split in SPLITS:
        members = sorted(
            (s for s in samples if (s.split or "train") == split), key=lambda sample: stable_hash(sample.key, 0)
        )
        yield from write_shards(_good(members, split, image_size, tally, bad), split, folder)


def _good(
    samples: Iterable[Sample], split: Split, image_size: Size, tally: ManifestBuilder, bad: BadSamples
) -> Iterator[Encoded]:
    """Read the samples, count those that are images, and leave the others out."""

    def read(sample: Sample) -> tuple[Sample, bytes]:
        try:
            return sample, sample.entry.read()
        except OSError as error:
            raise DropError(f"{sample.entry}: cannot be read: {error.strerror}") from error

    def judge(found: tuple[Sample, bytes]) -> tuple[Sample, bytes, str | None]:
        return *found, decode_error(found[1], image_size)

    for sample, data, cause in parallel_map(judge, map_ahead(read, samples, AHEAD)):
        if cause is None:
            tally.add(sample.key, split, sample.class_name)
            yield Encoded(sample.key, sample.class_name, sample.extension, data)
        else:
            bad.add(str(sample.entry), LeftOut(where=sample.entry.place, key=sample.key, cause=cause))


def _commit(drop: Drop, folder: Path, store: TaskStore) -> Packed:
    if store.drops.find(drop.id) is None:
        names = [shard.name for shard in drop.shards]
        for _ in map_ahead(lambda name: store.objects.upload(folder / name, store.keys.shard(drop.id, name)), names):
            pass
    return _seal(drop, store)


def _seal(drop: Drop, store: TaskStore) -> Packed:
    """Write the manifest of a drop whose shards are in the store, unless it is committed already."""
    with suppress(Conflict):
        store.objects.create(store.keys.manifest(drop.id), drop.to_bytes())
        return Packed(drop, new=True)
    committed = store.drops.read(drop.id)
    if committed.digest != drop.digest:
        raise DropError(f"drop {drop.id} exists with other content, and drops never change; choose another id")
    return Packed(committed, new=False)
