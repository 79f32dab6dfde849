"""Identify an image without its name: compute a digest of its content, and a hash that is alike for similar images."""

import hashlib
import io
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrain.config.frame import Size
from retrain.data.images import FEW_PIXELS, FORMATS, LEAST_GREY, OpenedImage, Pixels, open_image, pixels_of
from retrain.errors import DropError

CONTENT_BYTES = 16
"""Number of bytes of SHA-256 in a digest. Among 10^12 images, two agree by chance with a probability below 10^-14."""

END, COMMENT, ADOBE, APPLICATION = 0xD9, 0xFE, 0xEE, range(0xE0, 0xF0)
"""Second bytes of JPEG markers."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Pattern of a JPEG marker within coded data."""


class ImageFacts(NamedTuple):
    """Facts of an image that do not depend on its name."""

    content: bytes
    """Digest of the visible content. It does not depend on the name, the metadata or the lossless format."""
    width: int
    height: int
    parts: bytes
    """72 bytes: the mean grey values of 8 rows of 9 parts of the image."""
    thumbnail: bytes
    """64 bytes: the mean grey values of 8 rows of 8 parts of the image."""


def examine_image(data: bytes, size: Size) -> ImageFacts:
    """Return an image's facts. Raises `DropError` for the images for which `decode_image` raises it."""
    with open_image(data, size, is_kept=False) as opened:
        opened.check()
        return _facts(data, opened)


def examine_decoded(data: bytes, size: Size) -> tuple[ImageFacts, Pixels]:
    """Return an image's facts, and the pixels that `decode_image` returns. Raises `DropError` like `decode_image`."""
    with open_image(data, size) as opened:
        fitted = opened.fitted()
        return _facts(data, opened), pixels_of(fitted)


def examine_or_explain(data: bytes, size: Size, is_kept: bool) -> tuple[ImageFacts | str, Pixels | None]:
    """Return an image's facts, and its pixels if `is_kept`. If it cannot be decoded, return only the reason."""
    try:
        return examine_decoded(data, size) if is_kept else (examine_image(data, size), None)
    except DropError as error:
        return str(error), None


def _facts(data: bytes, opened: OpenedImage) -> ImageFacts:
    image, (width, height) = opened.image, opened.full_size
    if image.format in ("JPEG", "MPO") and width * height > FEW_PIXELS:
        content = _coded_digest(data)
    elif image.size != opened.full_size:  # the decoder already reduced it, as far as this task's image size allows
        with Image.open(io.BytesIO(data), formats=FORMATS) as whole:
            content = _pixel_digest(whole)
    else:
        content = _pixel_digest(image)
    factor = max(1, min(image.size) // LEAST_GREY)
    grey, box = image.convert("L").reduce(factor), (0, 0, opened.width / factor, opened.height / factor)
    parts = grey.resize((9, 8), Image.Resampling.BOX, box).tobytes()
    thumbnail = grey.resize((8, 8), Image.Resampling.BOX, box).tobytes()
    return ImageFacts(content, width, height, parts, thumbnail)


def difference_hash(parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the hashes of images, uint8 [N, 8], from their parts, uint8 [N, 8, 9]. Near-duplicates differ in few bits.

    Each bit states which of two neighbouring parts is brighter (dHash, Krawetz).
    """
    return np.packbits((parts[:, :, 1:] > parts[:, :, :-1]).reshape(-1, 64), axis=1)


def mean_brightness(parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean grey value of each image's parts, uint8 [N, 8, 9]: uint8 [N]."""
    mean: NDArray[np.int64] = parts.sum((1, 2), dtype=np.int64) // (parts.shape[1] * parts.shape[2])
    return mean.astype(np.uint8)


def _coded_digest(data: bytes) -> bytes:
    """Return the digest of a JPEG's segments and coded data, without metadata and without bytes after the image's end.

    Metadata are comments and application segments. Adobe's segment is an exception, because it states the colours of
    the data.
    """
    sha256, at = hashlib.sha256(b"JPEG\n"), 2
    while marker := MARKER.search(data, at):
        sha256.update(data[at : marker.start()])
        kind, start = marker[0][1], marker.start()
        if kind == END:
            break
        at = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if kind == ADOBE or not (kind in APPLICATION or kind == COMMENT):
            sha256.update(data[start:at])
    return sha256.digest()[:CONTENT_BYTES]


def _pixel_digest(image: Image.Image) -> bytes:
    """Return the digest of the size and the pixels in RGB, or in RGBA if something is transparent."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            image = image.convert("RGB")
    elif image.mode != "RGB":
        image = image.convert("RGB")
    sha256 = hashlib.sha256(f"{image.width}x{image.height} {image.mode}\n".encode())
    sha256.update(image.tobytes())
    return sha256.digest()[:CONTENT_BYTES]
