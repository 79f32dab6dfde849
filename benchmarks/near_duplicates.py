"""Measure how many near-duplicates are found, and how many distinct pairs are taken for near-duplicates.

Near-duplicates are pictures of CIFAR-100 saved again, resized, cropped, or with another contrast. Distinct pictures are
the originals, and letters in many fonts: line drawings, whose hashes are nearly equal. `--seed` chooses pictures and
letters. The threshold was chosen on one seed and archive, and is reported on another. Any archive will do.
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
"""Pixels of a letter's picture."""


def saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """Return a picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scaled(image: Image.Image, factor: float) -> bytes:
    """Return a picture of another size as a file."""
    return saved(image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC))


def cropped(image: Image.Image, left: int, right: int) -> bytes:
    """Return a picture without columns and rows at its left and upper, and at its right and lower side."""
    return saved(image.crop((left, left, image.width - right, image.height - right)))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG, quality 90": lambda image: saved(image, "JPEG", quality=90),
    "JPEG, quality 70": lambda image: saved(image, "JPEG", quality=70),
    "JPEG, quality 50": lambda image: saved(image, "JPEG", quality=50),
    "half the size": lambda image: scaled(image, 0.5),
    "three quarters": lambda image: scaled(image, 0.75),
    "twice the size": lambda image: scaled(image, 2),
    "brighter by 10%": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.1)),
    "contrast +15%": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.15)),
    "3% cropped at two sides": lambda image: cropped(image, 1, 0),
    "3% cropped at four sides": lambda image: cropped(image, 1, 1),
}


def photographs(archive: Path, count: int, seed: int) -> list[Image.Image]:
    """Return pictures of an archive of class/name.png, drawn at random."""
    with tarfile.open(archive) as opened:
        members = random.Random(seed).sample(opened.getnames(), count)
        return [Image.open(opened.extractfile(name) or io.BytesIO()).convert("RGB") for name in members]


def letters(fonts: Path, count: int, seed: int) -> list[Image.Image]:
    """Return letters in many fonts, sizes and places, black on white."""
    draw, found = random.Random(seed), list[Image.Image]()
    paths = sorted(path for path in fonts.rglob("*") if path.suffix in (".ttf", ".otf"))
    while len(found) < count:
        image = Image.new("RGB", (SIDE, SIDE), "white")
        place = SIDE / 2 + draw.randrange(-3, 4), SIDE / 2 + draw.randrange(-3, 4)
        with suppress(OSError):  # a font that cannot be drawn
            font = ImageFont.truetype(str(draw.choice(paths)), draw.randrange(36, 52))
            ImageDraw.Draw(image).text(place, draw.choice(ascii_letters), "black", font, anchor="mm")
        if np.asarray(image).min() < 128:
            found.append(image)
    return found


class Found(NamedTuple):
    """Candidates among images."""

    pairs: NDArray[np.int64]
    """int64 [P, 2]."""
    far: NDArray[np.float32]
    """The distances of their thumbnails, float32 [P]."""
    by_hash: NDArray[np.bool_]
    """Whether hash and brightness alone call them near-duplicates, bool [P]."""

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

    def called(self, chosen: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many of some candidates, bool [P], are called near-duplicates: by hash, and by threshold."""
        by_threshold = {f"{most:g}": int((self.far[chosen] <= most).sum()) for most in THRESHOLDS}
        return {"hash alone": int(self.by_hash[chosen].sum()), **by_threshold}


def recall(images: Sequence[Image.Image], change: Callable[[Image.Image], bytes]) -> dict[str, float]:
    """Return which share of changed pictures is found beside all originals, by threshold."""
    facts = [examine_image(data, 32) for image in images for data in (saved(image), change(image))]
    found = Found.among(facts)
    own = (found.pairs[:, 0] % 2 == 0) & (found.pairs[:, 1] == found.pairs[:, 0] + 1)
    return {most: round(number / len(images), 3) for most, number in found.called(own).items()}


def false_pairs(images: Sequence[Image.Image]) -> dict[str, int]:
    """Return how many pairs of distinct pictures are taken for near-duplicates, by threshold."""
    facts = [examine_image(saved(image), 32) for image in images]
    found = Found.among(facts)
    differ = np.array([facts[one].content != facts[other].content for one, other in found.pairs], np.bool_)
    return {"pairs": len(images) * (len(images) - 1) // 2, "candidates": len(found.pairs), **found.called(differ)}


def main() -> None:
    """Measure both, and print all figures as JSON."""
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("archive", type=Path, help="a tar of class/name.png, CIFAR-100 for example")
    options.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    images = photographs(chosen.archive, chosen.images, chosen.seed)
    figures = {
        "recall": {name: recall(images, change) for name, change in CHANGES.items()},
        "false_pairs": {
            f"{chosen.images} pictures": false_pairs(images),
            **{f"{count} letters": false_pairs(letters(chosen.fonts, count, chosen.seed)) for count in (120, 600)},
        },
    }
    report({"results": [figures]}, chosen.output)


if __name__ == "__main__":
    main()
