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
from retrain.errors import DropError
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

    Raises `DropError`, naming shard and key, where an image cannot be decoded or a shard is not what the manifest says.
    """
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

    def pixels(sample: Encoded) -> tuple[Encoded, NDArray[np.uint8]]:
        try:
            return sample, decode(sample.data, image_size)
        except DropError as error:
            raise DropError(f"{store.url}: {key}: {sample.key}: {error}") from error

    with store.open(key) as stream:
        yield from parallel_map(pixels, read_shard(stream, shard, f"{store.url}: {key}"))
