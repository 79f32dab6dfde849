"""Apply torchvision's random transforms to whole batches, with new random parameters in every iteration.

The random draws depend only on the plan's seed, the iteration and the position in the batch. Therefore a resumed run
continues as if it had not stopped, and several processes draw the same numbers as a single process. Mixing is the
exception: each process mixes only its own rows.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retrain.config.augmentation import Augmentation, ResizedCrop
from retrain.data.augment import Rows
from retrain.training.seeds import borrowed_default_generator, derive_seed, make_generator

GROUP = 8
"""Number of images that share one draw of the policy and of colour jitter. Torchvision draws once for each call. 16
calls for a batch of 128 take a few milliseconds. One call for each image would take as long as the step of a small
network."""

Transform = Callable[[Tensor, int, Rows], Tensor]
"""Function from (images uint8 [B, 3, H, W], iteration, rows of the images in the batch) to transformed images."""
Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Function from (normalized images, labels int64 [B], iteration) to images and targets. Targets are labels, or shares
of classes [B, K]."""


def make_transform(setting: Augmentation, seed: int) -> Transform:
    """Return the transform of raw images. It is applied before they are cropped, mirrored and normalized."""
    if setting == Augmentation(mixup=setting.mixup, cutmix=setting.cutmix):
        return lambda images, iteration, rows: images
    library = _library_transforms(setting)

    def transform(images: Tensor, iteration: int, rows: Rows) -> Tensor:
        if setting.resized_crop:
            boxes = draw_boxes(setting.resized_crop, images.shape[2:], rows, seed, iteration)
            images = crop_boxes(images, boxes.to(images.device, non_blocking=True))
        return _by_groups(library, images, iteration, rows, seed) if library else images

    return transform


def draw_boxes(setting: ResizedCrop, size: torch.Size, rows: Rows, seed: int, iteration: int) -> Tensor:
    """Return a random box for each row, float32 [rows, 4]: left, top, right, bottom in pixels.

    Area and ratio are drawn like in torchvision's RandomResizedCrop, with one difference. If a side would be longer
    than the image, this function shortens it, and torchvision draws again.
    """
    height, width = size
    drawn = torch.rand(4, rows.batch, generator=make_generator(seed, "resized crop", iteration))[:, rows.at]
    area = height * width * (setting.scale[0] + (setting.scale[1] - setting.scale[0]) * drawn[0])
    low, high = map(math.log, setting.ratio)
    ratio = torch.exp(low + (high - low) * drawn[1])
    wide, tall = (area * ratio).sqrt().clamp(1, width), (area / ratio).sqrt().clamp(1, height)
    left, top = drawn[2] * (width - wide), drawn[3] * (height - tall)
    return torch.stack([left, top, left + wide, top + tall], dim=1)


def crop_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Return the part of each image within its box, resized to the image's size: uint8, same shape.

    torchvision's RoIAlign does this in one kernel for the whole batch. It averages four bilinear samples for each
    pixel.
    """
    from torchvision.ops import roi_align  # torchvision takes seconds to import

    places = torch.cat([torch.arange(len(images), device=images.device).unsqueeze(1), boxes], dim=1)
    parts: Tensor = roi_align(images.float(), places.float(), list(images.shape[2:]), sampling_ratio=2, aligned=True)
    return parts.round_().clamp_(0, 255).to(torch.uint8)


def _library_transforms(setting: Augmentation) -> Callable[[Tensor], Tensor] | None:
    """Return torchvision's transforms of a group of images: policy, then colours. None if neither is set."""
    from torchvision.transforms import v2

    made: list[Any] = []
    match setting.policy.name:
        case "rand_augment":
            made.append(v2.RandAugment(setting.policy.operations, setting.policy.magnitude))
        case "trivial_augment":
            made.append(v2.TrivialAugmentWide())
    if jitter := setting.color_jitter:
        made.append(v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue))
    return v2.Compose(made) if made else None


def _by_groups(transform: Callable[[Tensor], Tensor], images: Tensor, iteration: int, rows: Rows, seed: int) -> Tensor:
    """Transform the images in groups of the whole batch. Each group has its own random numbers."""
    groups = range(rows.start // GROUP, -(-rows.stop // GROUP))
    sizes = [min(rows.stop, (group + 1) * GROUP) - max(rows.start, group * GROUP) for group in groups]
    seeds = [derive_seed(seed, f"transforms {iteration}", group) for group in groups]
    parts = []
    with borrowed_default_generator() as generator:
        for own, part in zip(seeds, torch.split(images, sizes), strict=True):
            generator.manual_seed(own)
            parts.append(transform(part))
    return torch.cat(parts)


def make_mix(setting: Augmentation, classes: int, seed: int) -> Mix:
    """Return the function that mixes the images of a batch, with their labels."""
    if not (setting.mixup or setting.cutmix):
        return lambda images, labels, iteration: (images, labels)
    from torchvision.transforms import v2

    kinds = [v2.MixUp(alpha=setting.mixup, num_classes=classes)] if setting.mixup else []
    kinds += [v2.CutMix(alpha=setting.cutmix, num_classes=classes)] if setting.cutmix else []
    choice = v2.RandomChoice(kinds) if len(kinds) > 1 else _OnlyChoice(kinds[0])

    def mix(images: Tensor, labels: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        with borrowed_default_generator() as generator:
            generator.manual_seed(derive_seed(seed, "mix", iteration))
            mixed: tuple[Tensor, Tensor] = choice(images, labels)
        return mixed

    return mix


class _OnlyChoice:
    """A replacement of torchvision's RandomChoice for a single transform. It takes half the time."""

    def __init__(self, transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self._transform = transform

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed images and targets."""
        # RandomChoice draws a number. Without this draw, runs of earlier versions could not resume.
        torch.empty(1).exponential_()
        return self._transform(images, labels)
