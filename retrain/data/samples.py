"""One split of a dataset, with its labels on the training device and its pixels there or elsewhere."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from retrain.config import Split
from retrain.config.frame import Size, image_shape
from retrain.data.cache import load_decoded
from retrain.data.dataset import check_drops
from retrain.records import Dataset, Drop
from retrain.store.task_store import TaskStore


class PixelSource(Protocol):
    """Images of N samples: a tensor, or an object that reads images when it is indexed."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Return the images of rows, int64 [B]: uint8 [B, 3, height, width]."""


@dataclass(frozen=True)
class Samples:
    """Samples in the order of the dataset's drops."""

    images: PixelSource
    """uint8 [N, 3, height, width]."""
    labels: Tensor
    """int64 [N], indices into the dataset's classes."""
    drop: Tensor
    """int32 [N], each sample's drop as a position in the dataset."""
    sizes: tuple[int, ...]
    """Number of samples of each drop."""

    @classmethod
    def of(cls, images: PixelSource, labels: Tensor, sizes: Sequence[int]) -> Self:
        """Return the samples. `sizes` has the number of samples of each drop, in the order of the drops."""
        positions = torch.arange(len(sizes), dtype=torch.int32)
        drop = positions.repeat_interleave(torch.tensor(sizes, dtype=torch.int64)).to(labels.device)
        return cls(images, labels, drop, tuple(sizes))

    @property
    def device(self) -> torch.device:
        """Return the device of the training. The pixels may be elsewhere."""
        return self.labels.device

    @property
    def pixels_on(self) -> torch.device:
        """Return the device of the pixels, or the device that they are read to."""
        return self.images.device if isinstance(self.images, Tensor) else torch.device("cpu")

    @property
    def loader(self) -> Literal["device", "memory", "stream"]:
        """Return where the decoded images are."""
        if not isinstance(self.images, Tensor):
            return "stream"
        return "device" if self.images.device == self.device else "memory"

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the images of rows, int64 [B], on the device: uint8 [B, 3, height, width]."""
        return move_to(self.images[rows.to(self.pixels_on)], self.device)


def move_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for its arrival on a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def labels_of(dataset: Dataset, drops: Iterable[Drop]) -> list[Tensor]:
    """Return, for each drop, the index of each of its classes among the dataset's classes, int64."""
    label_of = {name: label for label, name in enumerate(dataset.classes)}
    return [torch.tensor([label_of[name] for name in drop.classes]) for drop in drops]


def load_in_memory(
    dataset: Dataset,
    drops: Sequence[Drop],
    splits: Collection[Split],
    *,
    store: TaskStore,
    image_size: Size,
    device: torch.device,
    pixels_on: torch.device,
    cache_dir: Path,
) -> dict[Split, Samples]:
    """Return these `splits` of a dataset. `drops` are the manifests of its drops in the same order.

    Raises `DamagedDrop` at the first drop that has changed since the dataset was made, or that cannot be decoded.
    """
    check_drops(dataset, drops, splits)
    sizes = {split: [drop.samples(split) for drop in drops] for split in splits}
    shape = image_shape(image_size)
    images = {split: torch.empty(sum(sizes[split]), *shape, dtype=torch.uint8, device=pixels_on) for split in splits}
    labels: dict[Split, list[Tensor]] = {split: [] for split in splits}
    for position, (drop, label_of) in enumerate(zip(drops, labels_of(dataset, drops), strict=True)):
        arrays = load_decoded(drop, store, image_size, cache_dir, splits)
        for split in splits:
            start = sum(sizes[split][:position])
            images[split][start : start + sizes[split][position]] = arrays[split].images
            labels[split].append(label_of[arrays[split].labels])
    return {split: Samples.of(images[split], torch.cat(labels[split]).to(device), sizes[split]) for split in splits}
