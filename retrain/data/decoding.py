"""Decode a whole drop into arrays that are allocated once, from the manifest's counts."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrain.data.holdout import split_of
from retrain.data.images import decode
from retrain.data.parallel import parallel_map
from retrain.data.shards import Encoded, read_shard
from retrain.data.source import SPLITS
from retrain.errors import DamagedDrop, DropError
from retrain.layout import Layout
from retrain.records import Drop, Shard
from retrain.store.base import Store
from retrain.words import Split


class SplitArrays(NamedTuple):
    """One split of a drop, in the order of the manifest's shards.

    `images` uint8 [N, 3, size, size]; `labels` int64 [N], indices into the drop's own `classes`.
    """

    images: Tensor
    labels: Tensor


def decode_drop(drop: Drop, store: Store, layout: Layout, image_size: int) -> dict[Split, SplitArrays]:
    """Stream a drop's shards and return its splits.

    Raises `DamagedDrop`, naming shard and key, where an image cannot be decoded or a shard is not what the manifest
    says.
    """
    try:
        _check_sizes(drop, store, layout)
        return _decode(drop, store, layout, image_size)
    except DropError as error:
        raise DamagedDrop(drop.id, str(error)) from error


def _check_sizes(drop: Drop, store: Store, layout: Layout) -> None:
    """Before memory is allocated for what the manifest promises."""
    prefix = layout.shard(drop.id, "")
    found = {entry.key.removeprefix(prefix): entry.size for entry in store.list(prefix)}
    for shard in drop.shards:
        if found.get(shard.name) != shard.size:
            what = f"has {found[shard.name]} bytes" if shard.name in found else "is not there"
            raise DropError(f"{store.url}/{prefix}{shard.name} {what}, where the manifest says {shard.size} bytes")
    counted, held = sum(map(drop.samples, SPLITS)), sum(shard.samples for shard in drop.shards)
    if counted != held:
        raise DropError(f"drop {drop.id}: the manifest counts {counted:,} samples, and {held:,} in its shards")


def _decode(drop: Drop, store: Store, layout: Layout, image_size: int) -> dict[Split, SplitArrays]:
    arrays = {split: _empty(drop.samples(split), image_size) for split in SPLITS}
    label_of = {name: label for label, name in enumerate(drop.classes)}
    filled: Counter[Split] = Counter()
    for shard in drop.shards:
        for sample, pixels in _decoded(drop, shard, store, layout, image_size):
            split = split_of(sample.key, shard.split, drop.held_out)
            images, labels = arrays[split]
            if sample.class_name not in label_of or filled[split] == len(labels):
                raise DropError(f"drop {drop.id}: {sample.key} ({split}, {sample.class_name}) is not in its manifest")
            images[filled[split]] = torch.from_numpy(pixels)
            labels[filled[split]] = label_of[sample.class_name]
            filled[split] += 1
    if any(filled[split] < len(arrays[split].labels) for split in SPLITS):
        raise DropError(f"drop {drop.id}: the manifest counts more samples than its shards hold: {dict(filled)}")
    return arrays


def _empty(samples: int, image_size: int) -> SplitArrays:
    images = torch.empty(samples, 3, image_size, image_size, dtype=torch.uint8)
    return SplitArrays(images, torch.empty(samples, dtype=torch.int64))


def _decoded(
    drop: Drop, shard: Shard, store: Store, layout: Layout, image_size: int
) -> Iterator[tuple[Encoded, NDArray[np.uint8]]]:
    key = layout.shard(drop.id, shard.name)
    left_out = {bad.key for bad in drop.left_out if bad.where == shard.name}

    def pixels(sample: Encoded) -> tuple[Encoded, NDArray[np.uint8]]:
        try:
            return sample, decode(sample.data, image_size)
        except DropError as error:
            raise DropError(f"{store.url}/{key}: {sample.key}: {error}") from error

    with store.open(key) as stream:
        yield from parallel_map(pixels, read_shard(stream, shard, f"{store.url}/{key}", left_out))
