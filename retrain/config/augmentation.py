"""Settings of torchvision's random transforms of training images, beyond crops and flips."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

from retrain.config.fields import ConfigModel

Area = Annotated[float, Field(gt=0, le=1)]


def _check_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise PydanticCustomError("explained", "must be two values: the smallest, then the largest")
    return limits


Ordered = AfterValidator(_check_order)
"""Validator that refuses a pair of limits whose first value is above the second."""


class ResizedCrop(ConfigModel):
    """A random part of each image, of random size and aspect ratio, resized to the image size (Inception's crop)."""

    scale: Annotated[tuple[Area, Area], Ordered] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: Annotated[tuple[PositiveFloat, PositiveFloat], Ordered] = (0.75, 1.3333)
    """Smallest and largest width of the part, as a multiple of its height."""


class ColorJitter(ConfigModel):
    """Random changes of colour."""

    brightness: NonNegativeFloat = 0.4
    """Largest change of brightness. With 0.4, the factor on brightness is drawn between 0.6 and 1.4."""
    contrast: NonNegativeFloat = 0.4
    """Largest change of contrast, as for brightness."""
    saturation: NonNegativeFloat = 0.4
    """Largest change of saturation, as for brightness."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a share of the colour circle."""


class NoPolicy(ConfigModel):
    """No further transforms."""

    name: Literal["none"] = "none"


class RandAugment(ConfigModel):
    """Several random operations with the same magnitude (Cubuk et al., 2020)."""

    name: Literal["rand_augment"] = "rand_augment"
    operations: PositiveInt = 2
    """Number of operations per image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of the operations, from 0 to 30."""


class TrivialAugment(ConfigModel):
    """One random operation of random magnitude (Müller & Hutter, 2021)."""

    name: Literal["trivial_augment"] = "trivial_augment"


Policy = Annotated[NoPolicy | RandAugment | TrivialAugment, Field(discriminator="name")]


class Augmentation(ConfigModel):
    """Random transforms of training images beyond `crop_padding` and `flip`. By default there are none."""

    resized_crop: ResizedCrop | None = None
    """Random resized crops instead of crops from the padded image. {} uses the default sizes."""
    policy: Policy = NoPolicy()
    """none, rand_augment or trivial_augment. Eight consecutive images of a batch share their operations."""
    color_jitter: ColorJitter | None = None
    """Random changes of colour, shared by eight consecutive images of a batch. {} uses the default strengths."""
    mixup: NonNegativeFloat = 0.0
    """alpha of mixup. Each image is mixed with another image. Each batch draws the share of the other image from
    Beta(alpha, alpha). 0 turns mixup off."""
    cutmix: NonNegativeFloat = 0.0
    """alpha of CutMix. A part of each image is replaced by a part of another image. If mixup is also set, each batch
    uses one of the two. 0 turns CutMix off."""
