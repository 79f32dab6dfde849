"""Cache decoded drops in safetensors files: one file for each split of a drop and each image size."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from retrain.config import SPLITS, Split
from retrain.config.frame import Size, image_shape
from retrain.data.assignment import Assignment, Place
from retrain.data.decoded import COMPLETE_FILES, cache_path, digest_arrays, save_arrays
from retrain.data.images import decode_image
from retrain.data.local_cache import CacheHold, mark_used
from retrain.data.shards import Encoded, read_shard
from retrain.errors import DamagedDrop, DropError
from retrain.records import Drop
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import parallel_map


class SplitArrays(NamedTuple):
    """One split of a drop, in the order of the manifest's shards.

    `images` is uint8 [N, 3, height, width]. `labels` is int64 [N] and has indices into the drop's `classes`.
    """

    images: Tensor
    labels: Tensor


def decode_drop(
    drop: Drop, store: TaskStore, image_size: Size, splits: Collection[Split] = SPLITS
) -> dict[Split, SplitArrays]:
    """Stream a drop's shards and return these `splits`. Images of other splits are not decoded.

    Raises `DamagedDrop`, naming shard and key, if an image cannot be decoded or a shard differs from the manifest.
    """
    try:
        _check_sizes(drop, store)
        return _decode(drop, store, image_size, splits)
    except DropError as error:
        raise DamagedDrop(drop.id, str(error)) from error


def _check_sizes(drop: Drop, store: TaskStore) -> None:
    """Raise `DropError` unless the shards have the sizes that the manifest states, and its counts of samples agree.

    This check comes before memory is allocated for the images.
    """
    prefix = store.keys.drop_file(drop.id, "")
    found = {entry.key.removeprefix(prefix): entry.size for entry in store.objects.list(prefix)}
    for shard in drop.shards:
        if found.get(shard.name) != shard.size:
            what = f"has {found[shard.name]} bytes" if shard.name in found else "is missing"
            raise DropError(
                f"{store.url}/{prefix}{shard.name} {what}, but the manifest says {shard.size} bytes: upload the drop "
                "again under a new id"
            )
    in_splits, in_shards = sum(map(drop.samples, SPLITS)), sum(shard.samples for shard in drop.shards)
    if in_splits + len(drop.removed) != in_shards:
        raise DropError(
            f"drop {drop.id}: the manifest counts {in_splits:,} samples in its splits, but {in_shards:,} in its "
            "shards: pack the drop again under a new id"
        )


def _decode(drop: Drop, store: TaskStore, image_size: Size, splits: Collection[Split]) -> dict[Split, SplitArrays]:
    arrays = {split: _empty(drop.samples(split), image_size) for split in splits}
    label_of = {name: label for label, name in enumerate(drop.classes)}
    filled: Counter[Split] = Counter()
    assignment = Assignment.of(drop, store)
    for position in range(len(drop.shards)):
        if assignment.splits(position).isdisjoint(splits):
            continue
        for key, place, pixels in _decode_shard(drop, position, assignment, store, image_size, splits):
            images, labels = arrays[place.split]
            if place.class_name not in label_of or filled[place.split] == len(labels):
                raise DropError(
                    f"drop {drop.id}: sample {key} ({place.split}, {place.class_name}) is in a shard but not in the "
                    "manifest: pack the drop again under a new id"
                )
            images[filled[place.split]] = torch.from_numpy(pixels)
            labels[filled[place.split]] = label_of[place.class_name]
            filled[place.split] += 1
    for split in splits:
        if filled[split] < (expected := len(arrays[split].labels)):
            raise DropError(
                f"drop {drop.id}: the shards contain fewer samples than the manifest says ({split}: {filled[split]:,} "
                f"instead of {expected:,}): pack the drop again under a new id"
            )
    return arrays


def _empty(samples: int, image_size: Size) -> SplitArrays:
    images = torch.empty(samples, *image_shape(image_size), dtype=torch.uint8)
    return SplitArrays(images, torch.empty(samples, dtype=torch.int64))


def _decode_shard(
    drop: Drop, position: int, assignment: Assignment, store: TaskStore, image_size: Size, splits: Collection[Split]
) -> Iterator[tuple[str, Place, NDArray[np.uint8]]]:
    shard = drop.shards[position]
    where = f"{store.url}/{store.keys.drop_file(drop.id, shard.name)}"

    def pixels(found: tuple[Encoded, Place]) -> tuple[str, Place, NDArray[np.uint8]]:
        sample, place = found
        try:
            return sample.key, place, decode_image(sample.data, image_size)
        except DropError as error:
            raise DropError(f"{where}: {sample.key}: {error}") from error

    def wanted(samples: Iterable[Encoded]) -> Iterator[tuple[Encoded, Place]]:
        for sample in samples:
            place = assignment.place(position, sample.key, sample.class_name)
            if place and place.split in splits:
                yield sample, place

    with store.objects.open(store.keys.drop_file(drop.id, shard.name)) as stream:
        yield from parallel_map(pixels, wanted(read_shard(stream, shard, where, assignment.skipped(position))))


def load_decoded(
    drop: Drop, store: TaskStore, image_size: Size, cache_dir: Path, splits: Collection[Split] = SPLITS
) -> dict[Split, SplitArrays]:
    """Return splits of a drop, memory-mapped from the cache. Missing and damaged splits are decoded first.

    If the training split is missing, all splits are decoded in one pass over the shards, because a machine that trains
    also evaluates. A pod that only evaluates decodes only the test split. Raises the errors of `decode_drop`, and
    `UserError` if the cache cannot be written.
    """
    with CacheHold(cache_dir):
        missing = {split for split in splits if not _is_intact(cache_path(drop, image_size, cache_dir, split))}
        if missing:
            decoded = decode_drop(drop, store, image_size, SPLITS if "train" in missing else missing)
            for split, arrays in decoded.items():
                path = cache_path(drop, image_size, cache_dir, split)
                save_arrays({"images": arrays.images.numpy(), "labels": arrays.labels.numpy()}, path)
        return {split: _read_arrays(cache_path(drop, image_size, cache_dir, split)) for split in splits}


def _read_arrays(path: Path) -> SplitArrays:
    """Memory-map a file. It may be removed afterwards, because the mapping keeps its data."""
    mark_used(path)
    with safe_open(path, "pt") as file:
        return SplitArrays(file.get_tensor("images"), file.get_tensor("labels"))


def _is_intact(path: Path) -> bool:
    """Return whether a file matches its digest. A file that another process wrote is checked only once."""
    try:
        file_as_written = path, path.stat().st_mtime_ns
        if file_as_written in COMPLETE_FILES:
            return True
        with safe_open(path, "pt") as file:
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if (file.metadata() or {}).get("sha256") != digest_arrays(arrays):
                return False
    except (OSError, SafetensorError):
        return False
    COMPLETE_FILES.add(file_as_written)
    return True
