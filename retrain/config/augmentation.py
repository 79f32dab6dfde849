"""Random changes of training images beyond crops and flips: torchvision's transforms, by their settings."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from retrain.config.fields import ConfigModel

Area = Annotated[float, Field(gt=0, le=1)]


class ResizedCrop(ConfigModel):
    """A random part of each image, of random size and shape, resized to the whole (Inception's crop)."""

    scale: tuple[Area, Area] = (0.08, 1.0)
    """Least and largest share of the image's area."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.3333)
    """Least and largest width of the part, as a multiple of its height."""


class ColorJitter(ConfigModel):
    """Random changes of colour."""

    brightness: NonNegativeFloat = 0.4
    """Brightness is multiplied by 1 - this to 1 + this."""
    contrast: NonNegativeFloat = 0.4
    """The same for contrast."""
    saturation: NonNegativeFloat = 0.4
    """The same for saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Hue is turned by this at most, as a share of the colour circle."""


class NoPolicy(ConfigModel):
    """No further changes."""

    name: Literal["none"] = "none"


class RandAugment(ConfigModel):
    """So many random operations of one magnitude (Cubuk et al., 2020)."""

    name: Literal["rand_augment"] = "rand_augment"
    operations: PositiveInt = 2
    """How many operations."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """How strong they are, of 30."""


class TrivialAugment(ConfigModel):
    """One random operation of random magnitude (Müller & Hutter, 2021)."""

    name: Literal["trivial_augment"] = "trivial_augment"


Policy = Annotated[NoPolicy | RandAugment | TrivialAugment, Field(discriminator="name")]


class Augmentation(ConfigModel):
    """Changes of training images beyond `crop_padding` and `flip`. None is made by default."""

    resized_crop: ResizedCrop | None = None
    """Random resized crops, in place of crops from the padded image; {} takes the usual sizes."""
    policy: Policy = NoPolicy()
    """none, rand_augment or trivial_augment. Eight neighbours in a batch share their operations."""
    color_jitter: ColorJitter | None = None
    """Random changes of colour, shared by eight neighbours in a batch; {} takes the usual strengths."""
    mixup: NonNegativeFloat = 0.0
    """alpha: each image is mixed with another one, by a share drawn from Beta(alpha, alpha) for the batch; 0: never."""
    cutmix: NonNegativeFloat = 0.0
    """alpha: a part of each image is replaced by that of another one; with mixup too, each batch draws which."""
