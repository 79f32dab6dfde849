"""Augmentation of batches matches a loop over single samples."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from retrain.config.task import Data
from retrain.data.augment import Augment, Normalize, crop, flip

DATA = Data(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4), crop_padding=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 64, height: int = 8, width: int = 8) -> Tensor:
    return torch.randint(256, (size, 3, height, width), dtype=torch.uint8, generator=generator(1))


def crops_of(image: Tensor, padding: int) -> list[Tensor]:
    """Return all crops of an image, row by row."""
    _, height, width = image.shape
    padded = functional.pad(image, (padding,) * 4)
    places = range(2 * padding + 1)
    return [padded[:, y : y + height, x : x + width] for y in places for x in places]


def test_crop_draws_its_offsets_from_the_generator() -> None:
    images, padding = batch(width=6), 3
    offsets = torch.randint(2 * padding + 1, (2, len(images)), generator=generator())
    expected = [crops_of(image, padding)[y * 7 + x] for image, y, x in zip(images, *offsets.tolist(), strict=True)]
    assert torch.equal(crop(images, padding, generator()), torch.stack(expected))


def test_every_crop_is_equally_likely() -> None:
    image = batch(1)[0]
    drawn = crop(image.expand(9000, -1, -1, -1), 1, generator())
    counts = torch.stack([(drawn == place).flatten(1).all(1).sum() for place in crops_of(image, 1)])
    assert counts.sum() == 9000
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_flip_mirrors_half_of_the_images_and_no_others() -> None:
    images = batch(4000)
    flipped = flip(images, generator())
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    untouched = (flipped == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~untouched)
    assert abs(mirrored.sum().item() - 2000) < 5 * 1000**0.5


def test_pixels_are_normalized_channel_by_channel() -> None:
    images = batch()
    mean, std = torch.tensor(DATA.mean).double(), torch.tensor(DATA.std).double()
    expected = torch.stack(
        [torch.stack([(image[c] / 255.0 - mean[c]) / std[c] for c in range(3)]) for image in images.double()]
    )
    normalized = Normalize(DATA)(images)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normalized.double(), expected, rtol=1e-5, atol=1e-6)


def test_bf16_pixels_are_rounded_fp32_pixels() -> None:
    images = batch()
    assert torch.equal(Normalize(DATA, bf16=True)(images), Normalize(DATA)(images).bfloat16())


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("mirror", [False, True])
def test_task_composes_crop_flip_and_normalize(padding: int, mirror: bool) -> None:
    data = DATA.model_copy(update={"crop_padding": padding, "flip": mirror})
    images, random = batch(), generator()
    expected = crop(images, padding, random) if padding else images
    expected = flip(expected, random) if mirror else expected
    augmented = Augment(data)(images, generator())
    assert torch.equal(augmented, Normalize(data)(expected))
    assert augmented.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_uses_only_its_generator_and_copies_images() -> None:
    images = batch()
    before, state = images.clone(), torch.get_rng_state()
    first, second = (Augment(DATA)(images, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, Augment(DATA)(images, generator(4)))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
