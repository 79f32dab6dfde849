"""The size that images are resized to, and the method of resizing."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

SMALLEST, LARGEST = 4, 1024
"""Limits of an image's sides, in pixels."""

Side = Annotated[int, Field(ge=SMALLEST, le=LARGEST)]
"""Side of an image, in pixels."""

Fit = Literal["crop", "letterbox", "stretch"]
"""The method that brings an image to the shape of the network's input. crop resizes it until it covers the shape, and
crops the centre. letterbox resizes it to fit inside the shape, and pads it with black. stretch resizes it without
keeping proportions."""


Background = Literal["white", "black", "none"]
"""Background of transparent images. With none, transparency is ignored."""


def _read_size(value: Any, read: ValidatorFunctionWrapHandler) -> int | tuple[int, int]:
    """Return an image size: one number for a square, otherwise height and width.

    Both forms share one error message. Pydantic would write a message for each form.
    """
    try:
        size: int | tuple[int, int] = read(value)
    except ValidationError:
        raise PydanticCustomError(
            "explained",
            "must be one side, or [height, width], of {smallest} to {largest} pixels",
            {"smallest": SMALLEST, "largest": LARGEST},
        ) from None
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


ImageSize = Annotated[Side | tuple[Side, Side], WrapValidator(_read_size)]
"""The side of a square, or height and width."""


class Frame(NamedTuple):
    """A shape, and the method that resizes images to it. The names of cached files contain `str(frame)`."""

    height: int
    width: int
    fit: Fit = "crop"
    background: Background = "white"

    def __str__(self) -> str:
        """Return `32`, `96x160` or `96x160-letterbox-black`."""
        shape = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        fit = "" if self.fit == "crop" else f"-{self.fit}"
        return f"{shape}{fit}" if self.background == "white" else f"{shape}{fit}-{self.background}"


Shape = int | tuple[int, int]
"""The side of a square, or height and width: the argument of model factories."""

Size = int | tuple[int, int] | Frame
"""The side of a square, height and width, or a frame. Without a frame, images are cropped."""


def as_frame(size: Size) -> Frame:
    """Return a size as a frame."""
    if isinstance(size, Frame):
        return size
    return Frame(size, size) if isinstance(size, int) else Frame(*size)


def image_shape(size: Size) -> tuple[int, int, int]:
    """Return the shape of an image as a tensor: channels, height, width."""
    frame = as_frame(size)
    return 3, frame.height, frame.width
