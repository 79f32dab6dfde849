"""A model's input and output: the size and normalization of its images, and its classes in order.

A program that loads only a model's weights needs no other information. All images are turned upright according to their
EXIF data, and values of 16 bits are scaled to 8 bits. Export, prediction, serving and the report use this record.
"""

from typing import Literal, Self

from retrain.config.frame import Background, Fit
from retrain.records.base import Record
from retrain.records.plan import Plan

CHANNELS = 3
"""Red, green, blue."""


class ModelInput(Record):
    """The images that a run's network was trained on, and what the positions of its logits mean."""

    height: int
    """Height of the images, in pixels."""
    width: int
    """Width of the images, in pixels."""
    fit: Fit = "crop"
    """The method that brings an image to this shape. crop resizes it until it covers the shape, and crops the centre.
    letterbox resizes it to fit inside the shape, and pads it with black. stretch resizes it without keeping
    proportions."""
    interpolation: Literal["bicubic"] = "bicubic"
    """Interpolation with which an image is resized."""
    background: Background = "white"
    """Background of transparent images. With none, transparency is ignored."""
    mean: tuple[float, float, float]
    """Mean of each channel, for pixel values in 0..1. It is subtracted from the pixels."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, for pixel values in 0..1. The pixels minus the mean are divided by it."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Return the input and the classes of a plan's network."""
        data = plan.task.data
        return cls(
            height=data.frame.height,
            width=data.frame.width,
            fit=data.fit,
            background=data.background,
            mean=data.mean,
            std=data.std,
            classes=plan.dataset.classes,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of one image."""
        return CHANNELS, self.height, self.width
