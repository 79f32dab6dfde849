"""A streamed dataset: training samples are read from shards when needed, and held-out splits from decoded files."""

from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path

import torch

from retrain.config import Split
from retrain.config.fields import parse_bytes
from retrain.config.frame import Size
from retrain.config.task import Stream
from retrain.data.dataset import check_drops
from retrain.data.local_cache import CacheHold
from retrain.data.samples import Samples, labels_of
from retrain.data.stream.catalogue import Catalogue, load_catalogue
from retrain.data.stream.pixels import FilePixels, ShardPixels
from retrain.data.stream.reading import shard_refs
from retrain.data.stream.shard_cache import SHARDS_AHEAD, ShardCache, ShardRef
from retrain.errors import TaskError
from retrain.records import Dataset, Drop
from retrain.store.task_store import TaskStore


def load_streamed(
    dataset: Dataset,
    drops: Sequence[Drop],
    splits: Collection[Split],
    *,
    setting: Stream,
    store: TaskStore,
    image_size: Size,
    device: torch.device,
    cache_dir: Path,
) -> dict[Split, Samples]:
    """Return these `splits` of a dataset. `drops` are the manifests of its drops in the same order.

    Raises `DamagedDrop` for the first drop that is damaged or has changed since the dataset was made. Raises
    `TaskError` if the cache is too small for the shards that are shuffled together.
    """
    check_drops(dataset, drops, splits)
    hold = CacheHold(cache_dir)
    shards = [shard_refs(drop, store.keys) for drop in drops]
    cache = ShardCache(store.objects, cache_dir / "shards", parse_bytes(setting.cache))
    _check_room(cache, [ref.shard.size for ref in chain.from_iterable(shards)], setting)
    found = [load_catalogue(drop, cache, store, image_size, cache_dir) for drop in drops]
    label_maps = labels_of(dataset, drops)
    train = _training_pixels(list(chain.from_iterable(shards)), found, cache, image_size)

    def samples(split: Split) -> Samples:
        held_out = [one.held_out[split] for one in found if split in one.held_out]
        pixels = train if split == "train" else FilePixels(held_out, image_size, hold)
        labels = [label_of[one.labels[split]] for label_of, one in zip(label_maps, found, strict=True)]
        return Samples.of(pixels, torch.cat(labels).to(device), [len(part) for part in labels])

    return {split: samples(split) for split in splits}


def _training_pixels(
    shards: list[ShardRef], found: list[Catalogue], cache: ShardCache, image_size: Size
) -> ShardPixels:
    """Return the pixels of the training samples. Shards without training samples are left out."""
    counts = torch.cat([one.counts for one in found])
    offset, length = torch.cat([one.offset for one in found]), torch.cat([one.length for one in found])
    used = [ref for ref, count in zip(shards, counts.tolist(), strict=True) if count]
    return ShardPixels(used, counts[counts > 0], offset, length, cache, image_size)


def _check_room(cache: ShardCache, sizes: Sequence[int], setting: Stream) -> None:
    """Raise `TaskError` unless the cache has room for all shards that are needed at once. `sizes` are the shards'."""
    needed = min(len(sizes), setting.shuffle_shards + 1 + SHARDS_AHEAD) * max(sizes)
    if cache.limit < needed:
        raise TaskError(
            f"data.stream.cache: {setting.cache} is too small to shuffle {setting.shuffle_shards} shards of up to "
            f"{max(sizes):,} bytes and to prefetch {1 + SHARDS_AHEAD} more: set it to {needed:,} bytes or more, or "
            "reduce data.stream.shuffle_shards"
        )
