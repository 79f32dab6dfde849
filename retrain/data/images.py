"""Decode one image: from the bytes of a file to pixels of the task's size."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from retrain.config.frame import Background, Frame, Size, as_frame
from retrain.errors import DropError


def _register_heif() -> tuple[str, ...]:
    """Register HEIC with Pillow if the package pillow-heif (the extra `heic`) is installed.

    Return the format's name.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", *_register_heif())
"""Formats that are decoded, by Pillow's names."""
EXTENSIONS = frozenset(
    {"avif", "bmp", "gif", "heic", "heif", "jfif", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
)
"""Extensions of images, in lower case and without the dot."""
MAX_PIXELS = 50_000_000
"""Largest number of pixels of an image. Larger images are refused, because they would need too much memory."""

Pixels = NDArray[np.uint8]
"""A decoded image, [3, height, width]."""

HEIC_BRANDS = frozenset({b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"})
"""Bytes 4 to 11 of an image in HEIC."""

LFS_POINTER = b"version https://git-lfs.github.com/"
"""First bytes of a Git LFS pointer. In a clone that was made without Git LFS, such a file replaces each image."""

UPRIGHT, FIRST_TURNED = 1, 5
"""EXIF's orientation of an upright image, and the first orientation that turns an image by 90 degrees."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns an image upright, by its EXIF orientation."""

GAP = 2
"""A JPEG may be decoded at a smaller scale if it is still at least this many times as large as requested. The effect of
the decoder's averaging is then hardly visible. Pillow's own `thumbnail` does the same."""

FEW_PIXELS = 128 * 128
"""A JPEG with up to this many pixels is identified by its pixels. A larger JPEG is identified by its coded data,
because decoding it at full size would take several times as long as packing it."""

LEAST_GREY = 64
"""Smallest length of the shorter side of the grey image that is compared with other images, in pixels. A larger image
is first reduced, which is faster and changes the mean grey values of its parts by a few at most."""

# Pillow warns of the damaged metadata that many cameras write, and decodes the image anyway. Only its warning of a
# decompression bomb is an error. The filters are set once, because catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode_image(data: bytes, size: Size) -> Pixels:
    """Decode an image to RGB, uint8 [3, height, width], in the shape of `size`. Its EXIF orientation is applied.

    A `Frame` also has a method of resizing and a background. Without it, the image is resized to cover the shape, its
    centre is cropped, and transparent images get a white background. Only the first picture of an animation is used.
    Large JPEGs are decoded at a half, a quarter or an eighth of their size, if that is still `GAP` times the requested
    size. Raises `DropError` with the cause if the bytes are not a complete image in one of `FORMATS`, or if the header
    states more than `MAX_PIXELS`.
    """
    with open_image(data, size) as opened:
        return pixels_of(opened.fitted())


def fit_opened_image(image: Image.Image, size: Size) -> Pixels:
    """Return the pixels of an image that Pillow has opened, as `decode_image` does. The image is not changed.

    A large JPEG is not decoded at a smaller scale, so its pixels differ slightly. Raises `DropError`.
    """
    try:
        _check_pixels(image)
        image.load()
        orientation = _orientation(image)
        frame = _frame_as_stored(orientation, as_frame(size))
        return pixels_of(OpenedImage(image, image.size, frame, orientation, *image.size).fitted())
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers may raise any error
        raise DropError(f"cannot be decoded: {error}") from error


def pixels_of(image: Image.Image) -> Pixels:
    """Return the pixels of an RGB image, uint8 [3, height, width]."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


class OpenedImage(NamedTuple):
    """An image whose header was read.

    `width` and `height` are the size of the picture in pixels. After decoding at a smaller scale, they may be
    fractions, because the picture may fill the last row and column of pixels only in part.
    """

    image: Image.Image
    full_size: tuple[int, int]
    """Width and height from its header."""
    frame: Frame
    """Target shape, method of resizing and background, for the image as stored, before it is turned upright."""
    orientation: int
    width: float
    height: float

    def check(self) -> None:
        """Decode the image, and convert it to RGB. These are the steps that can fail.

        The image is neither resized nor turned upright, because these steps cannot fail, and resizing takes longer than
        decoding. The same applies to the conversion of grey values to RGB.
        """
        self.image.load()
        if self.image.mode != "L":
            _rgb(self.image, self.frame.background)

    def fitted(self) -> Image.Image:
        """Return the image in RGB, upright, and resized to the target shape."""
        fitted = _fit(_rgb(self.image, self.frame.background), self.frame, self.width, self.height)
        turn = TURNS.get(self.orientation)
        return fitted if turn is None else fitted.transpose(turn)


@contextmanager
def open_image(data: bytes, size: Size, is_kept: bool = True) -> Iterator[OpenedImage]:
    """Open an image. It will be decoded no smaller than `size`. Errors within the context become `DropError`.

    If the pixels are not kept, a JPEG with more than `FEW_PIXELS` is decoded to grey values only, with at least
    `LEAST_GREY` pixels a side. This takes less time. It fails for the same files, because the whole file is still read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            orientation = _orientation(image)
            full_size, frame = image.size, _frame_as_stored(orientation, as_frame(size))
            drafted = None
            if is_kept:
                drafted = image.draft(None, (GAP * frame.width, GAP * frame.height))
            elif image.width * image.height > FEW_PIXELS:
                drafted = image.draft("L", (LEAST_GREY, LEAST_GREY))
            width, height = drafted[1][2:] if drafted else image.size
            yield OpenedImage(image, full_size, frame, orientation, width, height)
    except MemoryError:  # the image may be good
        raise
    except UnidentifiedImageError as error:  # its own message shows only an address in memory
        raise DropError(f"cannot be decoded: {_unidentified(data)}") from error
    except Exception as error:  # Pillow's parsers may raise any error
        raise DropError(f"cannot be decoded: {error}") from error


def _unidentified(data: bytes) -> str:
    """Return the reason why no decoder accepts these bytes."""
    if not data:
        return "the file is empty: replace or remove it"
    if data.startswith(LFS_POINTER):
        return "a pointer of Git LFS instead of an image: run `git lfs pull` to fetch the images"
    if data[4:12] in HEIC_BRANDS and "HEIF" not in FORMATS:
        return "an image in HEIC needs a decoder: pip install 'retrain-classifiers[heic]'"
    return f"not an image in {', '.join(FORMATS)}: convert or remove it"


def _check_pixels(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels; at most {MAX_PIXELS:,} are allowed: reduce the image")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image as Pillow loads it. It is `UPRIGHT` if the EXIF data are damaged.

    Only a JPEG may be loaded later, at a smaller scale. A PNG may have its EXIF data after its pixels, and Pillow turns
    a TIFF upright when it loads it.
    """
    if image.format not in ("JPEG", "MPO"):
        image.load()
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # Pillow's parsers may raise any error
        return UPRIGHT
    return found if found in TURNS else UPRIGHT


def _frame_as_stored(orientation: int, frame: Frame) -> Frame:
    """Return the frame in the orientation in which the image is stored.

    Its sides are swapped if the image will be turned by 90 degrees.
    """
    return frame if orientation < FIRST_TURNED else frame._replace(height=frame.width, width=frame.height)


def _fit(image: Image.Image, frame: Frame, width: float, height: float) -> Image.Image:
    """Return the top left part of an image, width x height pixels, resized to the shape of `frame`."""
    shape = frame.width, frame.height
    if image.size == shape:
        return image
    if frame.fit == "letterbox":
        return _letterbox(image, shape, width, height)
    wide, tall = width, height
    if frame.fit == "crop":
        wide, tall = min(width, height * frame.width / frame.height), min(height, width * frame.height / frame.width)
    left, top = (width - wide) / 2, (height - tall) / 2
    return image.resize(shape, Image.Resampling.BICUBIC, (left, top, left + wide, top + tall))


def _letterbox(image: Image.Image, shape: tuple[int, int], width: float, height: float) -> Image.Image:
    """Return a black image of this shape that contains the whole given image, resized, in its middle."""
    scale = min(shape[0] / width, shape[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", shape)
    resized = image.resize(inner, Image.Resampling.BICUBIC, (0, 0, width, height))
    canvas.paste(resized, ((shape[0] - inner[0]) // 2, (shape[1] - inner[1]) // 2))
    return canvas


def _rgb(image: Image.Image, background: Background) -> Image.Image:
    if image.mode in ("F", "I"):
        raise ValueError(
            f"its pixels are numbers of 32 bits (mode {image.mode}) of unknown range; convert the image to 8 bits"
        )
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 where it should scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data and background != "none":
        return _on_background(image, background)
    if image.mode == "P":  # Pillow keeps a palette's transparency only in RGBA
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_background(image: Image.Image, colour: str) -> Image.Image:
    canvas = Image.new("RGBA", image.size, colour)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")
