"""A dataset held decoded: uint8 pixels of all drops, one after another, on the device or in the machine's memory."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from retrain.data.cache import decoded
from retrain.data.dataset import check_drops
from retrain.data.samples import Samples, labels_of
from retrain.layout import Layout
from retrain.records import Dataset, Drop
from retrain.store.base import Store
from retrain.words import Split


def load(
    dataset: Dataset,
    drops: Sequence[Drop],
    splits: Collection[Split],
    *,
    store: Store,
    layout: Layout,
    image_size: int,
    device: torch.device,
    pixels_on: torch.device,
    cache_dir: Path,
) -> dict[Split, Samples]:
    """Return the wanted splits of a dataset, `drops` being the manifests of its drops in the same order.

    Raises `DamagedDrop` at the first that is not the one that the dataset was made of, or cannot be decoded.
    """
    check_drops(dataset, drops)
    sizes = {split: [drop.samples(split) for drop in drops] for split in splits}
    shape = 3, image_size, image_size
    images = {split: torch.empty(sum(sizes[split]), *shape, dtype=torch.uint8, device=pixels_on) for split in splits}
    labels: dict[Split, list[Tensor]] = {split: [] for split in splits}
    for position, drop in enumerate(drops):
        arrays, label_of = decoded(drop, store, layout, image_size, cache_dir), labels_of(dataset, drop)
        for split in splits:
            start = sum(sizes[split][:position])
            images[split][start : start + sizes[split][position]] = arrays[split].images
            labels[split].append(label_of[arrays[split].labels])
    return {split: Samples.of(images[split], torch.cat(labels[split]).to(device), sizes[split]) for split in splits}
