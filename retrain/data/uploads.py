"""Drops whose producer wrote no manifest: what lies under the drop in the store, validated and committed.

Shards in which every sample has a `key.png` and a `key.cls` stay as they are; anything else is packed into shards of
our own first. Both end with `drop.json`.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from webdataset.tariterators import base_plus_ext

from retrain.config import Split
from retrain.config.task import Data, Task
from retrain.data.dataset import held_out_shares
from retrain.data.files import SourceFile, list_store, split_of_archive
from retrain.data.images import EXTENSIONS, decode_error
from retrain.data.litter import litter_kind
from retrain.data.manifest_builder import BadSamples, ManifestBuilder
from retrain.data.packing import OURS, check_id, pack_by_shards
from retrain.data.shards import READ
from retrain.data.source import survey_upload
from retrain.data.tars import HashingReader, read_members
from retrain.errors import DropError
from retrain.records import Drop, LeftOut, Reading, Shard
from retrain.records.drop import canonical_class_name, clean_class_name
from retrain.store.base import Conflict
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import parallel_map

PACKED = re.compile(re.escape(OURS) + r"(train|val|test)-\d{6}-[0-9a-f]{8}\.tar")
"""How `pack_by_shards` names shards: those in the store are of an earlier attempt that came to no manifest."""

CONTROL_FILES = ("_SUCCESS", "drop.json", "quarantine.json")


class NotPlain(Exception):
    """Readers of committed shards would not find its samples as they are meant: it is read as other sources are."""


def ingest_drop(drop_id: str, task: Task, store: TaskStore) -> Drop:
    """Commit what a producer has uploaded under a drop, in any layout that `docs/your-data.md` describes.

    Raises `DropError`, naming file, key and cause, if anything of it is wrong; then nothing is committed.
    """
    check_id(drop_id, 1)
    prefix = store.keys.shard(drop_id, "")
    entries = list(list_store(store.objects, prefix))
    ours = {str(entry.name) for entry in entries if is_ours(str(entry.name))}
    theirs = [entry for entry in entries if str(entry.name) not in ours]
    shards = [entry for entry in theirs if litter_kind(entry.name) is None]
    if not shards:
        raise DropError(f"drop {drop_id}: no train samples among 0: there is no file but litter in it")
    if task.data.label_from in ("auto", "cls") and all(_is_shard(entry) for entry in shards):
        with suppress(NotPlain):
            litter = Counter(kind for entry in theirs if (kind := litter_kind(entry.name)))
            return _ingest_shards(drop_id, shards, litter, task, store)
    return pack_by_shards(survey_upload(store.objects, prefix, ours, task.data), task, store, drop_id)


def is_ours(name: str) -> bool:
    """Whether a file of a drop is one of this project's own, which no producer put there."""
    return name in CONTROL_FILES or PACKED.fullmatch(name) is not None


def _is_shard(entry: SourceFile) -> bool:
    return entry.name.suffix == ".tar" and split_of_archive(entry.name) is not None and not entry.problem


def _ingest_shards(drop_id: str, tars: list[SourceFile], litter: Counter[str], task: Task, store: TaskStore) -> Drop:
    """Commit shards where they lie; each is read once, as it streams by. Raises `NotPlain` if they cannot stay."""
    splits = {str(tar.name): split for tar in tars if (split := split_of_archive(tar.name))}
    reader = _Reader(held_out_shares(set(splits.values()), task.data), task.data)
    reader.not_samples += litter
    shards = []
    for name, split in splits.items():
        key = store.keys.shard(drop_id, name)
        with store.objects.open(key) as stream:
            shards.append(reader.read(stream, name, split, f"{store.url}/{key}"))
    reading = Reading(labels_from="cls", not_samples=dict(sorted(reader.not_samples.items())))
    drop = reader.tally.manifest(drop_id, task.name, shards, reader.bad, f"drop {drop_id}", reading)
    with suppress(Conflict):  # another watcher committed it in the meantime
        store.objects.create(store.keys.manifest(drop_id), drop.to_bytes())
    return store.drops.read(drop_id)


class _Plain(NamedTuple):
    """A sample of a plain shard."""

    key: str
    class_name: str
    image: bytes


class _Judged(NamedTuple):
    """A sample's key and class, and what is wrong with its image."""

    key: str
    class_name: str
    cause: str | None


class _Reader:
    """Validates the plain shards of one drop."""

    def __init__(self, held_out: dict[Split, float], data: Data) -> None:
        self.tally, self.bad = ManifestBuilder(held_out), BadSamples(data.max_bad_share)
        self.not_samples = Counter[str]()
        self._data = data
        self._keys: set[tuple[Split, str]] = set()

    def read(self, stream: BinaryIO, name: str, split: Split, where: str) -> Shard:
        """Count a shard's good samples and return what is to be known of it. Raises `DropError`, naming `where`."""
        whole, samples = HashingReader(stream), 0
        for sample in parallel_map(self._judge, self._plain_samples(whole, where)):
            if (split, sample.key) in self._keys:
                raise DropError(f"{where}: {sample.key}: duplicate key")
            self._keys.add((split, sample.key))
            if sample.cause is None:
                self.tally.add(sample.key, split, sample.class_name)
                samples += 1
            else:
                self.bad.add(f"{where}: {sample.key}", LeftOut(where=name, key=sample.key, cause=sample.cause))
        return Shard(name=name, split=split, samples=samples, size=whole.size, sha256=whole.sha256)

    def _plain_samples(self, stream: HashingReader, where: str) -> Iterator[_Plain]:
        for key, files in groupby(_members(stream, where), key=lambda member: member[0]):
            found: dict[str, bytes] = {}
            for _, extension, data in files:
                if extension in found:
                    raise DropError(f"{where}: {key}.{extension}: duplicate file")
                found[extension] = data
            yield self._plain(key, found)

    def _plain(self, key: str, files: dict[str, bytes]) -> _Plain:
        """Return a sample that readers of committed shards find as it is meant. Raises `NotPlain` for any other."""
        images = files.keys() & EXTENSIONS
        beside = files.keys() - images
        if len(images) != 1 or "cls" not in beside or any(one.endswith(".cls") for one in beside):
            raise NotPlain
        try:
            label = files["cls"].decode()
            name = canonical_class_name(label)
        except (UnicodeDecodeError, DropError):
            raise NotPlain from None
        if name != clean_class_name(label) or name in self._data.aliases:
            raise NotPlain
        self.not_samples.update(f".{one} ({'labels' if one == 'cls' else 'beside images'})" for one in beside)
        return _Plain(key, name, files[images.pop()])

    def _judge(self, sample: _Plain) -> _Judged:
        return _Judged(sample.key, sample.class_name, decode_error(sample.image, self._data.frame))


def _members(stream: HashingReader, where: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key and extension of every file of a shard, with the bytes of images and labels.

    Raises `NotPlain` at a name that is not `key.extension`, and at litter.
    """
    for member in read_members(stream, where):
        if not member.isreg():
            continue
        key, extension = base_plus_ext(member.name)
        if key is None or litter_kind(PurePosixPath(member.name)):
            raise NotPlain
        extension = extension.lower()
        if extension not in READ:
            yield key, extension, b""
            continue
        stream.seek(member.offset_data)
        data = stream.read(member.size)
        if len(data) < member.size:
            raise DropError(f"{where}: {member.name}: the tar ends within it")
        yield key, extension, data
