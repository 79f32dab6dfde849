"""Measure the share of near-duplicates that are found, and the number of distinct pairs mistaken for near-duplicates.

Near-duplicates are pictures of an archive, such as CIFAR-100, that were saved again, resized, cropped, or changed in
contrast or brightness. Distinct pictures are the originals, and letters in many fonts. The hashes of the letters are
nearly equal. `--seed` chooses pictures and letters. The threshold was chosen with other pictures than those of the
reported results.
"""

import argparse
import io
import random
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_letters
from typing import NamedTuple

import numpy as np
from lib.report import parser, report
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from retrain.data.content import ImageFacts, difference_hash, examine_image, mean_brightness
from retrain.data.likeness import (
    MOST_BITS_ALONE,
    MOST_BRIGHTNESS,
    MOST_DISTANCE,
    candidates,
    differing_bits,
    distances,
)

THRESHOLDS = (0.05, MOST_DISTANCE, 0.15, 0.2, 0.25)
SIDE = 64
"""Width and height of a letter's picture, in pixels."""


def encode_image(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """Return a picture as the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_resized(image: Image.Image, factor: float) -> bytes:
    """Return a picture resized by a factor, as a PNG file."""
    return encode_image(
        image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    )


def encode_cropped(image: Image.Image, left: int, right: int) -> bytes:
    """Return a picture as a PNG file, cropped by `left` pixels at its left and top, and `right` at its right and
    bottom.
    """
    return encode_image(image.crop((left, left, image.width - right, image.height - right)))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG, quality 90": lambda image: encode_image(image, "JPEG", quality=90),
    "JPEG, quality 70": lambda image: encode_image(image, "JPEG", quality=70),
    "JPEG, quality 50": lambda image: encode_image(image, "JPEG", quality=50),
    "half the size": lambda image: encode_resized(image, 0.5),
    "three quarters": lambda image: encode_resized(image, 0.75),
    "twice the size": lambda image: encode_resized(image, 2),
    "brighter by 10%": lambda image: encode_image(ImageEnhance.Brightness(image).enhance(1.1)),
    "contrast +15%": lambda image: encode_image(ImageEnhance.Contrast(image).enhance(1.15)),
    "3% cropped at two sides": lambda image: encode_cropped(image, 1, 0),
    "3% cropped at four sides": lambda image: encode_cropped(image, 1, 1),
}


def read_photographs(archive: Path, count: int, seed: int) -> list[Image.Image]:
    """Return random pictures of an archive of class/name.png."""
    with tarfile.open(archive) as opened:
        members = random.Random(seed).sample(opened.getnames(), count)
        return [Image.open(opened.extractfile(name) or io.BytesIO()).convert("RGB") for name in members]


def draw_letters(fonts: Path, count: int, seed: int) -> list[Image.Image]:
    """Return pictures of black letters on white, in many fonts, sizes and positions."""
    draw, found = random.Random(seed), list[Image.Image]()
    paths = sorted(path for path in fonts.rglob("*") if path.suffix in (".ttf", ".otf"))
    while len(found) < count:
        image = Image.new("RGB", (SIDE, SIDE), "white")
        center = SIDE / 2 + draw.randrange(-3, 4), SIDE / 2 + draw.randrange(-3, 4)
        with suppress(OSError):  # a font that cannot be drawn
            font = ImageFont.truetype(str(draw.choice(paths)), draw.randrange(36, 52))
            ImageDraw.Draw(image).text(center, draw.choice(ascii_letters), "black", font, anchor="mm")
        if np.asarray(image).min() < 128:
            found.append(image)
    return found


class Found(NamedTuple):
    """P pairs of images whose hashes make them candidates for near-duplicates."""

    pairs: NDArray[np.int64]
    """Positions of the two images, int64 [P, 2]."""
    far: NDArray[np.float32]
    """Distances of their thumbnails, float32 [P]."""
    by_hash: NDArray[np.bool_]
    """Flags of the pairs that are near-duplicates by hash and brightness alone, bool [P]."""

    @classmethod
    def among(cls, facts: Sequence[ImageFacts]) -> "Found":
        """Return the candidates among images."""
        parts = np.frombuffer(b"".join(one.parts for one in facts), np.uint8).reshape(-1, 8, 9)
        hashes = difference_hash(parts).view(">u8").ravel().astype(np.uint64)
        thumbnails = np.array([list(one.thumbnail) for one in facts], np.uint8)
        brightness = mean_brightness(parts).astype(np.int64)
        pairs = candidates(hashes)
        as_bright = np.ptp(brightness[pairs], axis=1) <= MOST_BRIGHTNESS
        by_hash = (differing_bits(hashes, pairs) <= MOST_BITS_ALONE) & as_bright
        return cls(pairs, distances(thumbnails, pairs), by_hash)

    def count_by_threshold(self, chosen: NDArray[np.bool_]) -> dict[str, int]:
        """Return the numbers of `chosen` candidates, bool [P], that count as near-duplicates, by hash and by each
        threshold.
        """
        by_threshold = {f"{most:g}": int((self.far[chosen] <= most).sum()) for most in THRESHOLDS}
        return {"hash alone": int(self.by_hash[chosen].sum()), **by_threshold}


def recall(images: Sequence[Image.Image], change: Callable[[Image.Image], bytes]) -> dict[str, float]:
    """Return the share of changed pictures that are paired with their originals, by threshold."""
    facts = [examine_image(data, 32) for image in images for data in (encode_image(image), change(image))]
    found = Found.among(facts)
    own = (found.pairs[:, 0] % 2 == 0) & (found.pairs[:, 1] == found.pairs[:, 0] + 1)
    return {most: round(number / len(images), 3) for most, number in found.count_by_threshold(own).items()}


def false_pairs(images: Sequence[Image.Image]) -> dict[str, int]:
    """Return the number of distinct pairs that are mistaken for near-duplicates, by threshold."""
    facts = [examine_image(encode_image(image), 32) for image in images]
    found = Found.among(facts)
    differ = np.array([facts[one].content != facts[other].content for one, other in found.pairs], np.bool_)
    return {
        "pairs": len(images) * (len(images) - 1) // 2,
        "candidates": len(found.pairs),
        **found.count_by_threshold(differ),
    }


def main() -> None:
    """Measure recall and false pairs, and print all results as JSON."""
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("archive", type=Path, help="a tar of class/name.png, CIFAR-100 for example")
    options.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    images = read_photographs(chosen.archive, chosen.images, chosen.seed)
    figures = {
        "recall": {name: recall(images, change) for name, change in CHANGES.items()},
        "false_pairs": {
            f"{chosen.images} pictures": false_pairs(images),
            **{f"{count} letters": false_pairs(draw_letters(chosen.fonts, count, chosen.seed)) for count in (120, 600)},
        },
    }
    report({"results": [figures]}, chosen.output)


if __name__ == "__main__":
    main()
