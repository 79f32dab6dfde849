"""One image: from the bytes of a file to pixels of the task's size."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from retrain.errors import DropError


def _register_heif() -> tuple[str, ...]:
    """Have Pillow decode HEIC, if the package pillow-heif (the extra `heic`) is installed; return the format's name."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", *_register_heif())
"""Formats that are decoded, as Pillow names them."""
EXTENSIONS = frozenset(
    {"avif", "bmp", "gif", "heic", "heif", "jfif", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
)
"""Extensions of images, in lower case and without the dot."""
MAX_PIXELS = 50_000_000

HEIC_BRANDS = frozenset({b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"})
"""What follows the first four bytes of an image in HEIC."""

GAP = 2
"""A JPEG may be decoded smaller than it is, but to no less than so many times the size that is asked for: what the
decoder's averaging loses is then hardly to be seen. Pillow's own `thumbnail` does the same."""

# Pillow warns of damaged metadata, which many cameras write, and decodes the image all the same. Only its warning of a
# decompression bomb is an error. Set once, because catch_warnings is not safe among threads.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode an image to RGB, uint8 [3, size, size]: upright by its EXIF, resized to cover, cropped to the middle.

    The first frame of an animation counts; transparency is dropped. Large JPEGs are decoded at a half, a quarter or an
    eighth of their size, if that is still `GAP` times what is asked for. Raises `DropError` with the cause if the bytes
    are not a whole image in one of `FORMATS`, or if its header promises more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            drafted = image.draft(None, (GAP * size, GAP * size))
            width, height = drafted[1][2:] if drafted else image.size  # its last pixels may be there in part
            square = _square(_rgb(image), size, width, height)
            ImageOps.exif_transpose(square, in_place=True)
            pixels = np.asarray(square)
    except UnidentifiedImageError as error:  # whose own words name an address in memory
        raise DropError(f"cannot be decoded: {_unidentified(data)}") from error
    except Exception as error:  # Pillow raises whatever its parsers trip over
        raise DropError(f"cannot be decoded: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _unidentified(data: bytes) -> str:
    """Return what is wrong with bytes that no decoder takes."""
    if data[4:12] in HEIC_BRANDS and "HEIF" not in FORMATS:
        return "an image in HEIC needs a decoder: pip install 'retrain-classifiers[heic]'"
    return f"not an image in {', '.join(FORMATS)}"


def decode_error(data: bytes, size: int) -> str | None:
    """Return why an image cannot be decoded, or None if it can be."""
    try:
        decode_image(data, size)
    except DropError as error:
        return str(error)
    return None


def _check_pixels(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")


def _square(image: Image.Image, size: int, width: float, height: float) -> Image.Image:
    """Return the square in the middle of an image's first width x height pixels, resized."""
    if image.size == (size, size):
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "I"):
        raise ValueError(f"its pixels are numbers of 32 bits (mode {image.mode}), whose range nobody states")
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 where it should scale
        scaled = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        scaled.info = image.info
        image = scaled
    if image.mode == "P":  # only RGBA can take over the transparency of a palette
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
