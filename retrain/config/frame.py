"""The size that images are resized to, and how."""

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

Side = Annotated[int, Field(ge=4, le=1024)]
"""Side of an image, in pixels."""

Fit = Literal["crop", "letterbox", "stretch"]
"""crop: resize to cover the shape and crop the centre; letterbox: resize to fit inside it and pad with black;
stretch: resize to it without keeping proportions."""


Background = Literal["white", "black", "none"]
"""Background of transparent images; none: transparency is ignored."""


def _square_as_number(size: int | tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


ImageSize = Annotated[Side | tuple[Side, Side], AfterValidator(_square_as_number)]
"""The side of a square, or height and width."""


class Frame(NamedTuple):
    """A shape, and how images are resized to it. Its text is part of the names of cached files."""

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
"""The side of a square, height and width, or a frame; without one, images are cropped."""


def as_frame(size: Size) -> Frame:
    """Return a size as a frame."""
    if isinstance(size, Frame):
        return size
    return Frame(size, size) if isinstance(size, int) else Frame(*size)


def image_shape(size: Size) -> tuple[int, int, int]:
    """Return the shape of an image as a tensor: channels, height, width."""
    frame = as_frame(size)
    return 3, frame.height, frame.width
