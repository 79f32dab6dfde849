"""Convert an image to the network's input, with the code that evaluated the model."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from retrain.config.task import Data
from retrain.data.augment import Normalize
from retrain.data.images import decode_image, fit_opened_image
from retrain.errors import DropError, ImageError

ImageInput = str | Path | bytes | Image.Image
"""The path of an image file, its bytes, or an image that Pillow has opened."""


class Preprocess:
    """Decodes, resizes, crops and normalizes images as a task states."""

    def __init__(self, data: Data) -> None:
        self.data, self._normalize = data, Normalize(data)

    def __call__(self, image: ImageInput) -> Tensor:
        """Return an image as the network's input, float32 [3, H, W]. Raises `ImageError` if it cannot be read."""
        return self.normalize(torch.from_numpy(self.decode(image))[None])[0]

    def decode(self, image: ImageInput) -> NDArray[np.uint8]:
        """Return an image's pixels at the network's size, uint8 [3, H, W]. Raises `ImageError`."""
        name = f"{image}: " if isinstance(image, str | Path) else ""
        try:
            if isinstance(image, Image.Image):
                return fit_opened_image(image, self.data.frame)
            return decode_image(_read_bytes(image), self.data.frame)
        except OSError as error:
            raise ImageError(f"{name}cannot be read: {error.strerror}") from error
        except DropError as error:
            raise ImageError(f"{name}{error}") from error

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return pixels, uint8 [N, 3, H, W], as the network's input: float32, same shape."""
        return self._normalize(pixels)


def _read_bytes(image: str | Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise TypeError(f"an image is a path, bytes of an image file or a Pillow image, not {type(image).__name__}")
    if "\0" in str(image):
        raise ImageError(f"{str(image)!r} is not a path: it contains a zero byte")
    return Path(image).read_bytes()
