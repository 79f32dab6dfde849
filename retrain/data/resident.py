"""A dataset on its device: uint8 pixels and labels of all drops, one after another, held once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from retrain.data.cache import decoded
from retrain.errors import DamagedDrop
from retrain.layout import Layout
from retrain.records import Dataset, Drop
from retrain.store.base import Store
from retrain.words import Split


@dataclass(frozen=True)
class Samples:
    """One split of a dataset; the drops' samples follow one another in the dataset's order."""

    images: Tensor
    """uint8 [N, 3, size, size]."""
    labels: Tensor
    """int64 [N], indices into the dataset's classes."""
    drop: Tensor
    """int32 [N], each sample's drop as a position in the dataset."""
    sizes: tuple[int, ...]
    """Number of samples of each drop."""

    @classmethod
    def empty(cls, sizes: Sequence[int], image_size: int, device: torch.device) -> "Samples":
        """Room for `sizes[k]` samples of drop k; images and labels are still to be filled."""
        total, positions = sum(sizes), torch.arange(len(sizes), dtype=torch.int32)
        return cls(
            images=torch.empty(total, 3, image_size, image_size, dtype=torch.uint8, device=device),
            labels=torch.empty(total, dtype=torch.int64, device=device),
            drop=positions.repeat_interleave(torch.tensor(sizes, dtype=torch.int64)).to(device),
            sizes=tuple(sizes),
        )


def load(
    dataset: Dataset,
    drops: Sequence[Drop],
    splits: Collection[Split],
    *,
    store: Store,
    layout: Layout,
    image_size: int,
    device: torch.device,
    cache_dir: Path,
) -> dict[Split, Samples]:
    """Return the wanted splits of a dataset, `drops` being the manifests of its drops in the same order.

    Raises `DamagedDrop` at the first that is not the one that the dataset was made of, or cannot be decoded.
    """
    for drop, ref in zip(drops, dataset.drops, strict=True):
        if drop.digest != ref.digest:
            raise DamagedDrop(drop.id, f"drop {drop.id} is not the one that the dataset was made of: it was changed")
    loaded = {split: Samples.empty([drop.samples(split) for drop in drops], image_size, device) for split in splits}
    label_of = {name: label for label, name in enumerate(dataset.classes)}
    for position, drop in enumerate(drops):
        arrays = decoded(drop, store, layout, image_size, cache_dir)
        labels = torch.tensor([label_of[name] for name in drop.classes])
        for split, samples in loaded.items():
            start = sum(samples.sizes[:position])
            here = slice(start, start + samples.sizes[position])
            samples.images[here] = arrays[split].images
            samples.labels[here] = labels[arrays[split].labels].to(device)
    return loaded
