"""The images of a regime by class: from CIFAR-100, from scikit-learn's digits, or drawn by this module."""

import io
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from retrain.config import Split
from retrain.data.labels import Sample
from retrain.data.source import read_source
from retrain.data.staging import stable_hash
from retrain.errors import StudyError
from retrain.experiments.datasets import find_data_set
from retrain.experiments.regimes.settings import Images, Shift

CANVAS = 24
"""Side of drawn pictures, in pixels."""


class Picture(NamedTuple):
    """One labelled image. Its PNG file is made when it is read."""

    class_name: str
    name: str
    read: Callable[[], bytes]


Pool = Mapping[str, list[Picture]]
"""Pictures by class."""


def choose_pictures(images: Images, seed: int, root: Path, temporary: Path) -> dict[Split, Pool]:
    """Return a regime's pictures by split. The seed chooses them, and no picture is in two splits.

    CIFAR-100's test images come from the data set's test split. Raises `StudyError` if a class has too few images.
    """
    pool, tests = _load(images, root, temporary)
    names = sorted(pool, key=lambda name: stable_hash(name, seed))[: images.classes]
    if len(names) < images.classes:
        raise StudyError(f"{images.source} has only {len(names)} classes: reduce images.classes ({images.classes})")
    chosen: dict[Split, dict[str, list[Picture]]] = {"train": {}, "val": {}, "test": {}}
    for name in names:
        own = _shuffle(pool[name], seed)
        held = _shuffle(tests[name], seed) if tests else own[images.train + images.val :]
        chosen["train"][name] = own[: images.train]
        chosen["val"][name] = own[images.train : images.train + images.val]
        chosen["test"][name] = held[: images.test]
        found = len(chosen["train"][name]) + len(chosen["val"][name]) + len(chosen["test"][name])
        if found < (wanted := images.train + images.val + images.test):
            raise StudyError(
                f"class {name} of {images.source} has {found} images; {wanted} are needed: reduce images.train, val or "
                "test"
            )
    return {"train": chosen["train"], "val": chosen["val"], "test": chosen["test"]}


def apply_shift(data: bytes, shift: Shift) -> bytes:
    """Return a changed image, as of another domain: inverted, blurred, or posterized to four tones a channel."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    match shift:
        case "inverted":
            image = ImageOps.invert(image)
        case "blurred":
            image = image.filter(ImageFilter.GaussianBlur(image.width / 16))
        case "posterised":
            image = ImageOps.posterize(image, 2)
    return _encode(image)


def _shuffle(pictures: list[Picture], seed: int) -> list[Picture]:
    return sorted(pictures, key=lambda picture: stable_hash(f"{picture.class_name}/{picture.name}", seed))


def _load(images: Images, root: Path, temporary: Path) -> tuple[Pool, Pool | None]:
    """Return all pictures of a source. If it has a test split, return the pictures of this split separately."""
    if images.source in ("cifar100", "cifar100-coarse"):
        samples = read_source(find_data_set("cifar100", root, False, temporary / "found"))
        rename = coarse_class if images.source == "cifar100-coarse" else str
        return (
            _by_class([sample for sample in samples if sample.split != "test"], rename),
            _by_class([sample for sample in samples if sample.split == "test"], rename),
        )
    if images.source == "digits":
        return _by_class(list(read_source(find_data_set("digits", root, False, temporary / "digits"))), str), None
    draw, names = (_draw_glyph, GLYPHS) if images.source == "glyphs" else (_draw_shape, SHAPES)
    count = images.train + images.val + images.test
    return {name: [Picture(name, str(n), partial(draw, name, n)) for n in range(count)] for name in names}, None


def _by_class(samples: list[Sample], rename: Callable[[str], str]) -> Pool:
    pool: dict[str, list[Picture]] = defaultdict(list)
    for sample in samples:
        name = rename(sample.class_name)
        pool[name].append(Picture(name, f"{sample.class_name}-{sample.stem}", sample.entry.read))
    return pool


GLYPHS = tuple("ABCDEFGHJKLMNPRSTUVXYZ")
"""Capitals that can be distinguished when turned by up to 20 degrees."""

SHAPES = ("circle", "square", "triangle", "pentagon", "hexagon", "ring", "cross", "star", "bar", "crescent")


def _draw_glyph(name: str, number: int) -> bytes:
    """Draw a letter of random size, position, angle and colours on a noisy background."""
    chance = random.Random(f"glyph/{name}/{number}")
    layer = Image.new("L", (2 * CANVAS, 2 * CANVAS))
    font = ImageFont.load_default(chance.uniform(20, 36))
    ImageDraw.Draw(layer).text((CANVAS, CANVAS), name, 255, font, anchor="mm")
    return _compose(layer, chance)


def _draw_shape(name: str, number: int) -> bytes:
    """Draw a shape of random size, position, angle and colours on a noisy background."""
    chance = random.Random(f"shape/{name}/{number}")
    layer = Image.new("L", (2 * CANVAS, 2 * CANVAS))
    draw, middle, radius = ImageDraw.Draw(layer), CANVAS, chance.uniform(8, 18)
    box = (middle - radius, middle - radius, middle + radius, middle + radius)
    corners = {"square": 4, "triangle": 3, "pentagon": 5, "hexagon": 6}
    thin = radius / 3
    match name:
        case "circle":
            draw.ellipse(box, fill=255)
        case "ring":
            draw.ellipse(box, outline=255, width=max(2, round(radius / 3)))
        case "crescent":
            draw.ellipse(box, fill=255)
            draw.ellipse((box[0] + thin, box[1], box[2] + thin, box[3]), fill=0)
        case "bar" | "cross":
            draw.rectangle((box[0], middle - thin, box[2], middle + thin), fill=255)
            if name == "cross":
                draw.rectangle((middle - thin, box[1], middle + thin, box[3]), fill=255)
        case "star":
            draw.regular_polygon((middle, middle, radius), 3, 0, fill=255)
            draw.regular_polygon((middle, middle, radius), 3, 60, fill=255)
        case _:
            draw.regular_polygon((middle, middle, radius), corners[name], 0, fill=255)
    return _compose(layer, chance)


def _compose(layer: Image.Image, chance: random.Random) -> bytes:
    """Turn and move a drawing, and paste it in one colour onto a noisy background of another colour."""
    move = (chance.uniform(-4, 4), chance.uniform(-4, 4))
    layer = layer.rotate(chance.uniform(-20, 20), translate=(round(move[0]), round(move[1]))).resize((CANVAS, CANVAS))
    dark = tuple(chance.randrange(0, 120) for _ in range(3))
    light = tuple(chance.randrange(110, 256) for _ in range(3))
    ground = Image.new("RGB", (CANVAS, CANVAS), dark)
    ground.paste(Image.new("RGB", (CANVAS, CANVAS), light), mask=layer)
    noise = Image.frombytes("RGB", (CANVAS, CANVAS), chance.randbytes(3 * CANVAS**2))
    return _encode(Image.blend(ground, noise, 0.15))


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


COARSE = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}
"""CIFAR-100's superclasses and their classes (Krizhevsky, 2009)."""

_COARSE_OF = {fine: coarse for coarse, classes in COARSE.items() for fine in classes.split()}


def coarse_class(fine: str) -> str:
    """Return the superclass of one of CIFAR-100's classes."""
    return _COARSE_OF[fine]
