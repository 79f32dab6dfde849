"""Augmentation of whole batches on their device. No operation here makes the host wait for the device."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from retrain.config.task import Data


class Rows(NamedTuple):
    """The rows of a batch that one process computes.

    Random numbers are drawn for the whole batch, so they do not depend on the number of processes.
    """

    start: int
    stop: int
    batch: int
    """Number of rows in the whole batch."""

    @property
    def at(self) -> slice:
        """Return the positions of this process's rows in the whole batch."""
        return slice(self.start, self.stop)


def crop(images: Tensor, padding: int, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Pad each image by `padding` zero pixels and crop it at a random position: [B, C, H, W], same shape.

    This takes one gather for the whole batch, from a view of all (2 * padding + 1)^2 crops (Krizhevsky & Hinton's
    augmentation). `rows` are the images' positions in the batch. By default, the images are the whole batch.
    """
    size, _, height, width = images.shape
    rows = rows or Rows(0, size, size)
    offsets = torch.randint(2 * padding + 1, (2, rows.batch), generator=generator, device=images.device)[:, rows.at]
    crops = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(size, device=images.device), :, offsets[0], offsets[1]]


def flip(images: Tensor, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Mirror each image [B, C, H, W] left to right with probability 1/2.

    `rows` are the images' positions in the batch. By default, the images are the whole batch.
    """
    rows = rows or Rows(0, len(images), len(images))
    mirrored = torch.rand(rows.batch, generator=generator, device=images.device)[rows.at] < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


class Normalize:
    """The normalization (pixel / 255 - mean) / std of each channel. Evaluation does nothing else to images."""

    def __init__(self, data: Data, bf16: bool = False) -> None:
        self.data, self.bf16 = data, bf16

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, 3, H, W] normalized, channels_last, as float32 (bfloat16 with `bf16`)."""
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        pixels.sub_(_channels(self.data.mean, images.device)).div_(_channels(self.data.std, images.device))
        return pixels.to(torch.bfloat16) if self.bf16 else pixels


class Augment:
    """The last steps for training images: crop (unless the images are already cropped), flip, normalize."""

    def __init__(self, data: Data, bf16: bool = False) -> None:
        self.data, self.normalize = data, Normalize(data, bf16)

    def __call__(self, images: Tensor, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
        """Return uint8 images [B, 3, H, W] augmented and normalized. `generator` is on the device of the images.

        `rows` are the images' positions in the batch. By default, the images are the whole batch.
        """
        if self.data.crop_padding and not self.data.augmentation.resized_crop:
            images = crop(images, self.data.crop_padding, generator, rows)
        if self.data.flip:
            images = flip(images, generator, rows)
        return self.normalize(images)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return 255 * values, [1, C, 1, 1].

    The result is cached, because a copy to the device in every step would make the host wait.
    """
    return torch.tensor(values, device=device).mul(255).view(1, -1, 1, 1)
