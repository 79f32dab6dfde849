"""Drops whose producer wrote no manifest: what lies under the drop in the store, validated and committed.

Shards are taken as they are; a tree of images is packed into shards first. Both end with `drop.json`.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from retrain.config import Split
from retrain.config.task import Data, Task
from retrain.data.dataset import held_out_shares
from retrain.data.images import decode_error
from retrain.data.manifest_builder import BadSamples, ManifestBuilder
from retrain.data.packing import check_id, pack_by_shards
from retrain.data.shards import encoded, read_samples
from retrain.data.source import SourceFile, list_store, read_entries, split_of_tar
from retrain.data.tars import HashingReader
from retrain.errors import DropError
from retrain.records import Drop, LeftOut, Shard
from retrain.store.base import Conflict
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import parallel_map

PACKED = re.compile(r"(train|val|test)-\d{6}-[0-9a-f]{8}\.tar")
"""How `pack` names shards: beside a tree of images they are of an earlier attempt that came to no manifest."""

CONTROL_FILES = ("_SUCCESS", "drop.json", "quarantine.json")


def ingest_drop(drop_id: str, task: Task, store: TaskStore) -> Drop:
    """Commit what a producer has uploaded under a drop: shards named after their split, or `class/name.png`.

    Raises `DropError`, naming shard, key and cause, if anything of it is wrong; then nothing is committed.
    """
    check_id(drop_id, 1)
    prefix = store.keys.shard(drop_id, "")
    entries = [entry for entry in list_store(store.objects, prefix) if str(entry.name) not in CONTROL_FILES]
    tars = [entry for entry in entries if entry.name.suffix == ".tar"]
    images = [entry for entry in entries if entry.name.suffix != ".tar"]
    packed = [tar.name for tar in tars if PACKED.fullmatch(str(tar.name))]
    strangers = [tar.name for tar in tars if tar.name not in packed]
    if not images:
        if packed and strangers:
            where, mine, yours = tars[0].root, packed[0], strangers[0]
            raise DropError(f"{where}: {mine} was packed from images, {yours} was not; delete those that are not meant")
        return _ingest_shards(drop_id, tars, task, store)
    if strangers:
        raise DropError(f"{images[0].root}: shards and other files side by side: {strangers[0]}, {images[0].name}")
    return pack_by_shards(read_entries(images, images[0].root), task, store, drop_id)


def _ingest_shards(drop_id: str, tars: list[SourceFile], task: Task, store: TaskStore) -> Drop:
    """Each shard is read once, as it streams by."""
    splits = {str(tar.name): split_of_tar(Path(tar.name)) for tar in tars}
    reader = _Reader(held_out_shares(set(splits.values()), task.data), task.data)
    shards = []
    for name, split in splits.items():
        key = store.keys.shard(drop_id, name)
        with store.objects.open(key) as stream:
            shards.append(reader.read(stream, name, split, f"{store.url}/{key}"))
    drop = reader.tally.manifest(drop_id, task.name, shards, reader.bad, f"drop {drop_id}")
    with suppress(Conflict):  # somebody else committed it in the meantime
        store.objects.create(store.keys.manifest(drop_id), drop.to_bytes())
    return store.drops.read(drop_id)


class _Judged(NamedTuple):
    """A sample's key and class, or what is wrong with it."""

    key: str
    class_name: str
    cause: str | None


class _Reader:
    """Validates the shards of one drop."""

    def __init__(self, held_out: dict[Split, float], data: Data) -> None:
        self.tally, self.bad = ManifestBuilder(held_out), BadSamples(data.max_bad_share)
        self._image_size = data.image_size
        self._keys: set[tuple[Split, str]] = set()

    def read(self, stream: BinaryIO, name: str, split: Split, where: str) -> Shard:
        """Count a shard's good samples and return what is to be known of it. Raises `DropError`, naming `where`."""
        whole, samples = HashingReader(stream), 0
        for sample in parallel_map(self._judge, read_samples(whole, where)):
            if (split, sample.key) in self._keys:
                raise DropError(f"{where}: {sample.key}: duplicate key")
            self._keys.add((split, sample.key))
            if sample.cause is None:
                self.tally.add(sample.key, split, sample.class_name)
                samples += 1
            else:
                self.bad.add(f"{where}: {sample.key}", LeftOut(where=name, key=sample.key, cause=sample.cause))
        return Shard(name=name, split=split, samples=samples, size=whole.size, sha256=whole.sha256)

    def _judge(self, sample: tuple[str, Mapping[str, bytes]]) -> _Judged:
        key, files = sample
        try:
            found = encoded(key, files)
        except DropError as error:
            return _Judged(key, "", str(error))
        return _Judged(key, found.class_name, decode_error(found.data, self._image_size))
