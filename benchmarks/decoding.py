"""Measure the time to decode an image to a task's size, compared with decoding it completely and resizing it.

The images are JPEGs of smooth random colours, from thumbnails to the size of a camera's photograph, and PNGs like
icons. The output is the median processor time in milliseconds, and the difference of the pixel values (of 255).
"""

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from lib.report import parser, report
from numpy.typing import NDArray
from PIL import Image, ImageOps

from retrain.data.images import decode_image

FILES = (("PNG", 32, 32), ("JPEG", 160, 160), ("JPEG", 500, 375), ("JPEG", 1600, 1200), ("JPEG", 4000, 3000))
SIZES = (32, 64, 224)
COLOURS = (60, 80, 3)

Decode = Callable[[bytes, int], NDArray[np.uint8]]


def picture(kind: str, width: int, height: int) -> bytes:
    """Return a picture of random pixels as a file of this kind."""
    colours = np.random.default_rng(0).integers(0, 256, COLOURS, dtype=np.uint8)
    image, file = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC), io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()


def decode_fully(data: bytes, size: int) -> NDArray[np.uint8]:
    """Return an image of this size. All pixels of the file are decoded before resizing."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.ascontiguousarray(np.asarray(ImageOps.fit(image, (size, size))).transpose(2, 0, 1))


def milliseconds(decoding: Decode, data: bytes, size: int) -> float:
    """Decode for a twentieth of a second. Return the mean time of one decoding, in milliseconds."""
    count, began = 0, time.process_time()
    while (taken := time.process_time() - began) < 0.05 or not count:
        decoding(data, size)
        count += 1
    return 1e3 * taken / count


def compare(data: bytes, size: int, turns: int) -> dict[str, Any]:
    """Return the median times of full decoding and of `decode_image`, and how much their pixels differ."""
    taken = [(milliseconds(decode_fully, data, size), milliseconds(decode_image, data, size)) for _ in range(turns)]
    difference = np.abs(decode_image(data, size).astype(int) - decode_fully(data, size))
    return {
        "full decoding, ms": round(statistics.median(full for full, _ in taken), 3),
        "retrain, ms": round(statistics.median(scaled for _, scaled in taken), 3),
        "times as fast": round(statistics.median(full / scaled for full, scaled in taken), 2),
        "pixels differ by, mean and most": [round(float(difference.mean()), 2), int(difference.max())],
    }


def main() -> None:
    """Compare every file of `FILES` at every size of `SIZES` up to the image's height."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5)
    chosen = options.parse_args()
    results = {
        f"{kind} {width}x{height} to {size}x{size}": compare(picture(kind, width, height), size, chosen.turns)
        for kind, width, height in FILES
        for size in SIZES
        if size <= height
    }
    report({"results": results}, chosen.output)


if __name__ == "__main__":
    main()
