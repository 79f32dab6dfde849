"""Validate and commit drops whose producer wrote no manifest, from the objects in the drop's folder of the store.

A shard is plain if every sample in it has one image, such as `key.png`, and its class in `key.cls`. If an upload has
only plain shards, they stay unchanged. Otherwise the upload is first packed into new shards. In both cases `drop.json`
is written at the end.
"""

import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tarfile import TarInfo
from typing import BinaryIO, NamedTuple

from retrain.config import SPLITS, Split
from retrain.config.task import Data, Task
from retrain.data.committing import DropCommitter, Packed
from retrain.data.content import ImageFacts, examine_or_explain
from retrain.data.dataset import held_out_shares
from retrain.data.decoded import DecodedSamples, keep_decoded
from retrain.data.files import SourceFile, list_store, split_of_archive
from retrain.data.images import EXTENSIONS, Pixels
from retrain.data.labels import Unread
from retrain.data.litter import litter_kind
from retrain.data.manifest_builder import BadSamples, ReadDrop
from retrain.data.packing import PACKED_FOLDER, check_drop_id, pack_by_shards
from retrain.data.sample_table import SampleRow
from retrain.data.shards import READ, group_files, read_member, split_name
from retrain.data.source import survey_upload
from retrain.data.tars import HashingReader, read_members
from retrain.errors import DropError
from retrain.records import Amendment, Drop, LeftOut, Reading, Shard, Uploaded
from retrain.records.drop import canonical_class_name, clean_class_name
from retrain.store.drops import OWN_FILES
from retrain.store.keys import OWN_SHARD
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import parallel_map

log = logging.getLogger("retrain")

NOT_UPLOADED = re.compile(
    rf"_SUCCESS|drop\.json|quarantine\.json|samples(-[0-9a-f]{{8}})?\.safetensors|{PACKED_FOLDER}{OWN_SHARD}"
)
"""Names of a drop's files that are not its producer's data. They include shards of an earlier `pack_by_shards` that
wrote no manifest."""


class NotPlain(Exception):
    """A shard is not plain: readers of committed shards would misread it. It is packed like other sources."""


def ingest_drop(
    drop_id: str,
    task: Task,
    store: TaskStore,
    tell: Callable[[str], None] = log.info,
    cache_dir: Path | None = None,
) -> Drop | Amendment:
    """Commit the files that a producer has uploaded for a drop, in any layout that `docs/your-data.md` describes.

    Returns the drop. If the upload has new labels of earlier images and no new image, it becomes an amendment, and the
    amendment is returned. `tell` is called with findings, such as duplicates. Decoded images are kept in `cache_dir`
    for a run on this machine. If any part is wrong, this raises `DropError` with file, key and cause, and nothing is
    committed.
    """
    check_drop_id(drop_id, 1)
    prefix = store.keys.drop_file(drop_id, "")
    entries = list(list_store(store.objects, prefix))
    excluded = {str(entry.name) for entry in entries if NOT_UPLOADED.fullmatch(str(entry.name))}
    files = [entry for entry in entries if str(entry.name) not in excluded]
    counted = [entry.size for entry in files if not OWN_FILES.fullmatch(str(entry.name))]  # as `late_files` counts them
    uploaded = Uploaded(files=len(counted), size=sum(counted))
    shards = [entry for entry in files if litter_kind(entry.name) is None]
    if any(f"{entry.name}/" == PACKED_FOLDER for entry in files):
        raise DropError(f"drop {drop_id}: {PACKED_FOLDER} is the folder of the packed shards: rename the file `packed`")
    if not shards:
        raise DropError(
            f"drop {drop_id}: no training image in it (hidden and temporary files are ignored): upload training images"
        )
    if task.data.label_from in ("auto", "cls") and all(_is_shard(entry) for entry in shards):
        with suppress(NotPlain), keep_decoded(task, cache_dir) as decoded:
            litter = Counter(kind for entry in files if (kind := litter_kind(entry.name)))
            read = _read_shards(drop_id, shards, litter, _ShardReader(task.data, decoded), store, uploaded)
            committer = DropCommitter(task, store, tell)
            committer.refresh()
            packed = committer.commit(read, drop_id)
            if decoded and committer.written:
                decoded.save(packed.drop, committer.written)
            return _committed(packed, drop_id)
    source = survey_upload(store.objects, prefix, excluded, task.data)
    with keep_decoded(task, cache_dir) as decoded:
        return _committed(pack_by_shards(source, task, store, drop_id, uploaded, tell, decoded), drop_id)


def _committed(packed: Packed, drop_id: str) -> Drop | Amendment:
    """Return the committed drop, or the amendment. Raises `DropError` if nothing is new."""
    if packed.drop.id == drop_id:
        return packed.drop
    if packed.amendment:
        return packed.amendment
    raise DropError(
        f"drop {drop_id}: it has no new image: earlier drops, such as {packed.drop.id}, have all of its images: "
        "add new images, or delete the upload"
    )


def _is_shard(entry: SourceFile) -> bool:
    return entry.name.suffix == ".tar" and split_of_archive(entry.name) is not None and not entry.problem


def _read_shards(
    drop_id: str,
    tars: list[SourceFile],
    litter: Counter[str],
    reader: "_ShardReader",
    store: TaskStore,
    uploaded: Uploaded,
) -> ReadDrop:
    """Read shards in place, each once, as a stream. Raises `NotPlain` if they must be packed into new shards."""
    splits = {str(tar.name): split for tar in tars if (split := split_of_archive(tar.name))}
    reader.not_samples += litter
    shards: list[Shard] = []
    for name, split in splits.items():
        key = store.keys.drop_file(drop_id, name)
        with store.objects.open(key) as stream:
            shards.append(reader.read(stream, len(shards), name, split, f"{store.url}/{key}"))
    reading = Reading(labels_from="cls", not_samples=dict(sorted(reader.not_samples.items())))
    held_out = held_out_shares(set(splits.values()), reader.data)
    return ReadDrop.of(f"drop {drop_id}", reader.rows, shards, reader.bad, held_out, reading, uploaded)


class _Plain(NamedTuple):
    """A sample of a plain shard."""

    key: str
    class_name: str
    image: bytes


class _ShardReader:
    """A reader that validates the plain shards of one drop."""

    def __init__(self, data: Data, decoded: DecodedSamples | None) -> None:
        self.data, self._decoded = data, decoded
        self.rows: list[SampleRow] = []
        self.bad = BadSamples(data.max_bad_share)
        self.not_samples = Counter[str]()
        self._keys: dict[Split, set[str]] = {split: set() for split in SPLITS}

    def read(self, stream: BinaryIO, position: int, name: str, split: Split, where: str) -> Shard:
        """Record a shard's samples, and return the shard's record. Raises `DropError`, with `where`."""
        reader, before = HashingReader(stream), len(self.rows)
        for key, class_name, found, pixels in parallel_map(self._examine_sample, self._plain_samples(reader, where)):
            if key in self._keys[split]:
                raise DropError(f"{where}: {key}: duplicate key: rename one of the samples")
            self._keys[split].add(key)
            if isinstance(found, str):
                unread = Unread(f"{where}: {key}", f"{name}: {key}", found)
                self.bad.add(unread, LeftOut(where=name, key=key, cause=found))
                self.rows.append(SampleRow(key, class_name, "bad", position, None))
            else:
                self.rows.append(SampleRow(key, class_name, split, position, found))
                if self._decoded and pixels is not None:
                    self._decoded.add(pixels)
        samples = len(self.rows) - before
        return Shard(name=name, split=split, samples=samples, size=reader.size, sha256=reader.sha256)

    def _plain_samples(self, stream: HashingReader, where: str) -> Iterator[_Plain]:
        for key, files in group_files(_members(stream, where), where):
            yield self._plain(key, files)

    def _plain(self, key: str, files: dict[str, bytes]) -> _Plain:
        """Return a sample if readers of committed shards read it correctly. Raises `NotPlain` for any other."""
        images = files.keys() & EXTENSIONS
        others = files.keys() - images
        if len(images) != 1 or "cls" not in others or any(one.endswith(".cls") for one in others):
            raise NotPlain
        try:
            label = files["cls"].decode()
            name = canonical_class_name(label)
        except (UnicodeDecodeError, DropError):
            raise NotPlain from None
        if name != clean_class_name(label) or name in self.data.aliases:
            raise NotPlain
        self.not_samples.update(f".{one} ({'labels' if one == 'cls' else 'next to images'})" for one in others)
        return _Plain(key, sys.intern(name), files[images.pop()])  # all samples of a class share one string

    def _examine_sample(self, sample: _Plain) -> tuple[str, str, ImageFacts | str, Pixels | None]:
        examined = examine_or_explain(sample.image, self.data.frame, self._decoded is not None)
        return sample.key, sample.class_name, *examined


def _members(stream: HashingReader, where: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key and extension of every file of a shard, with the bytes of images and labels.

    Raises `NotPlain` for a name that is not `key.extension`, and for stray files.
    """
    for member in filter(TarInfo.isreg, read_members(stream, where)):
        named = split_name(member.name)
        if named is None or litter_kind(PurePosixPath(member.name)):
            raise NotPlain
        key, extension = named[0], named[1].lower()
        yield key, extension, read_member(stream, member, where) if extension in READ else b""
