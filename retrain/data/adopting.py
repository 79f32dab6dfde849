"""Drops whose producer wrote no manifest: what lies under the drop in the store, validated and committed.

Shards are taken as they are; a tree of images is packed into shards first. Both end with `drop.json`.
"""

import hashlib
import re
import tempfile
from collections import Counter, deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from retrain.config import Task
from retrain.data.drops import drop_digest, read_drop
from retrain.data.holdout import held_out_shares, split_of
from retrain.data.images import decode
from retrain.data.listing import list_tar
from retrain.data.packing import check_id, pack
from retrain.data.parallel import parallel_map
from retrain.data.shards import Encoded, read_samples
from retrain.data.source import SPLITS, split_of_tar
from retrain.errors import DropError
from retrain.layout import Layout
from retrain.records import Drop, Shard
from retrain.store.base import Conflict, Store
from retrain.words import Split

PACKED = re.compile(r"(train|val|test)-\d{6}-[0-9a-f]{8}\.tar")
"""How `pack` names shards: beside a tree of images they are of an earlier attempt that did not come to its end."""

ABOUT_THE_DROP = ("_SUCCESS", "drop.json", "quarantine.json")


def adopt(drop_id: str, task: Task, store: Store) -> Drop:
    """Commit what a producer has uploaded under a drop: shards named after their split, or `class/name.png`.

    Raises `DropError`, naming shard, key and cause, if anything of it is wrong; then nothing is committed.
    """
    check_id(drop_id, 1)
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        try:
            return _adopt(drop_id, task, store, Path(temporary))
        except DropError as error:  # what was read was a copy; people look for it in the store
            where = f"{store.url}/{Layout(task.name).shard(drop_id, '')}".rstrip("/")
            raise DropError(str(error).replace(temporary, where)) from error


def _adopt(drop_id: str, task: Task, store: Store, folder: Path) -> Drop:
    prefix = Layout(task.name).shard(drop_id, "")
    names = [entry.key.removeprefix(prefix) for entry in store.list(prefix)]
    tars = [name for name in names if name.endswith(".tar")]
    images = [name for name in names if name not in (*tars, *ABOUT_THE_DROP)]
    if not images:
        return _adopt_shards(drop_id, tars, task, store, folder)
    if strangers := [name for name in tars if not PACKED.fullmatch(name)]:
        raise DropError(f"{folder}: shards and other files side by side: {strangers[0]}, {images[0]}")
    _download_all(prefix, images, store, folder)
    return pack(folder, task, store, drop_id=drop_id)[0].drop


def _download_all(prefix: str, names: list[str], store: Store, folder: Path) -> None:
    def download(name: str) -> None:
        _place(folder, name).write_bytes(store.read(prefix + name)[0])  # an image fits into memory

    deque(parallel_map(download, names), maxlen=0)


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _adopt_shards(drop_id: str, names: list[str], task: Task, store: Store, folder: Path) -> Drop:
    """One shard is on the disk at a time."""
    layout = Layout(task.name)
    splits = {name: split_of_tar(Path(name)) for name in names}
    tally = _Tally(held_out_shares(set(splits.values()), task.data), task.data.image_size)
    shards = []
    for name, split in splits.items():
        path = _place(folder, name)
        store.download(layout.shard(drop_id, name), path)
        shards.append(_read(path, name, split, tally))
        path.unlink()
    drop = tally.drop(drop_id, task.name, shards)
    with suppress(Conflict):  # somebody else committed it in the meantime
        store.create(layout.manifest(drop_id), drop.to_bytes())
    return read_drop(store, layout, drop_id)


def _read(path: Path, name: str, split: Split, tally: "_Tally") -> Shard:
    deque(list_tar(path), maxlen=0)  # refuses links, paths that climb out, and a tar that was cut short
    samples = 0
    with path.open("rb") as file:
        for sample in read_samples(file, str(path)):
            tally.add(sample, split, path)
            samples += 1
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(name=name, split=split, samples=samples, size=path.stat().st_size, sha256=sha256)


class _Tally:
    """What the samples of a drop add up to."""

    def __init__(self, held_out: dict[Split, float], image_size: int) -> None:
        self._held_out, self._image_size = held_out, image_size
        self._classes: dict[str, None] = {}
        self._counts: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
        self._keys: set[tuple[Split, str]] = set()

    def add(self, sample: Encoded, split: Split, where: Path) -> None:
        """Validate one sample and count it. Raises `DropError`."""
        if (split, sample.key) in self._keys:
            raise DropError(f"{where}: {sample.key}: duplicate key")
        try:
            decode(sample.data, self._image_size)
        except DropError as error:
            raise DropError(f"{where}: {sample.key}: {error}") from error
        self._keys.add((split, sample.key))
        self._classes[sample.class_name] = None
        self._counts[split_of(sample.key, split, self._held_out)][sample.class_name] += 1

    def drop(self, drop_id: str, task: str, shards: list[Shard]) -> Drop:
        """Return the manifest. Raises `DropError` if a split is empty."""
        if empty := [split for split, classes in self._counts.items() if not classes]:
            raise DropError(f"drop {drop_id}: no {empty[0]} samples among {len(self._keys)}")
        drop = Drop(
            id=drop_id,
            task=task,
            classes=tuple(self._classes),
            shards=tuple(shards),
            counts={split: dict(classes) for split, classes in self._counts.items()},
            held_out=self._held_out,
            digest="",
            committed_at=datetime.now(UTC),
        )
        return drop.model_copy(update={"digest": drop_digest(drop)})
