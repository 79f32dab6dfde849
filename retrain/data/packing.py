"""From a source to committed drops: read, validate, write shards, upload, and last of all the manifest."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from retrain.config import Task
from retrain.data.drops import drop_digest, find_drop, read_drop
from retrain.data.holdout import held_out_shares, split_of
from retrain.data.images import decode
from retrain.data.parallel import parallel_map
from retrain.data.shards import Encoded, write_shards
from retrain.data.source import SPLITS, Sample, read_source
from retrain.data.staging import Staging, parts
from retrain.errors import DropError
from retrain.layout import Layout
from retrain.records import Drop, Shard
from retrain.store.base import Conflict, Store
from retrain.words import Split

DROP_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


class Packed(NamedTuple):
    """A committed drop, and whether it is new. False: a drop of this name and content was there already."""

    drop: Drop
    new: bool


def pack(
    source: Path,
    task: Task,
    store: Store,
    *,
    staging: Staging | None = None,
    part: int | None = None,
    drop_id: str | None = None,
) -> list[Packed]:
    """Commit a source to the store as one drop, or as one for each part of a staging (`part`: only that one, from 1).

    A drop is called `drop_id`, or else after its digest. Nothing is written to the store before all is validated.
    Raises `DropError` if the source, an image in it or an argument is wrong, if a split would be empty, or if a drop
    of this name has other content.
    """
    chosen = _choose(read_source(source), staging, part)
    check_id(drop_id, len(chosen))
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        drops = []
        for number, samples in enumerate(chosen):
            folder = Path(temporary, str(number))
            folder.mkdir()
            drops.append((_prepare(samples, task, folder, drop_id), folder))
        return [_commit(drop, folder, store) for drop, folder in drops]


def _choose(samples: tuple[Sample, ...], staging: Staging | None, part: int | None) -> tuple[tuple[Sample, ...], ...]:
    staged = parts(samples, staging) if staging else (samples,)
    if part is None:
        return staged
    if not 1 <= part <= len(staged):
        raise DropError(f"part {part}: there are {len(staged)}; allowed is 1 to {len(staged)}")
    return (staged[part - 1],)


def check_id(drop_id: str | None, drops: int) -> None:
    """Raise `DropError` unless this can name so many drops."""
    if drop_id and not DROP_ID.fullmatch(drop_id):
        raise DropError(f"drop id {drop_id!r}: allowed are 1 to 63 lower-case letters and digits, with . _ - inside")
    if drop_id and drops > 1:
        raise DropError(f"drop id {drop_id}: there are {drops} parts to name; choose one of them")


def _prepare(samples: tuple[Sample, ...], task: Task, folder: Path, drop_id: str | None) -> Drop:
    """Validate the samples, write their shards into `folder`, and return the manifest."""
    held_out = held_out_shares({sample.split for sample in samples if sample.split}, task.data)
    counts = _counts(samples, held_out)
    drop = Drop(
        id="",
        task=task.name,
        classes=tuple(dict.fromkeys(sample.class_name for sample in samples)),
        shards=tuple(_shards(samples, task.data.image_size, folder)),
        counts=counts,
        held_out=held_out,
        digest="",
        committed_at=datetime.now(UTC),
    )
    content = drop_digest(drop)
    return drop.model_copy(update={"id": drop_id or f"d-{content[:12]}", "digest": content})


def _counts(samples: tuple[Sample, ...], held_out: Mapping[Split, float]) -> dict[Split, dict[str, int]]:
    counts: dict[Split, dict[str, int]] = {split: Counter() for split in SPLITS}
    for sample in samples:
        counts[split_of(sample.key, sample.split or "train", held_out)][sample.class_name] += 1
    for split, classes in counts.items():
        if not classes:
            why = f"none was drawn for its share of {held_out[split]:g}" if split in held_out else "none was left"
            raise DropError(f"{samples[0].entry.root}: no {split} samples among {len(samples)}: {why}")
    return counts


def _shards(samples: tuple[Sample, ...], image_size: int, folder: Path) -> Iterator[Shard]:
    for split in SPLITS:
        members = (sample for sample in samples if (sample.split or "train") == split)
        yield from write_shards(_validated(members, image_size), split, folder)


def _validated(samples: Iterable[Sample], image_size: int) -> Iterator[Encoded]:
    def validated(sample: Sample) -> Encoded:
        try:
            data = sample.entry.read()
            decode(data, image_size)
        except (DropError, OSError) as error:
            raise DropError(f"{sample.entry}: {error}") from error
        return Encoded(sample.key, sample.class_name, sample.extension, data)

    return parallel_map(validated, samples)


def _commit(drop: Drop, folder: Path, store: Store) -> Packed:
    layout = Layout(drop.task)
    if find_drop(store, layout, drop.id) is None:
        for shard in drop.shards:
            store.upload(folder / shard.name, layout.shard(drop.id, shard.name))
        with suppress(Conflict):  # somebody else committed it in the meantime
            store.create(layout.manifest(drop.id), drop.to_bytes())
            return Packed(drop, new=True)
    committed = read_drop(store, layout, drop.id)
    if committed.digest != drop.digest:
        raise DropError(f"drop {drop.id} exists with other content, and drops never change; choose another id")
    return Packed(committed, new=False)
