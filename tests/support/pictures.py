"""Make small real images, and folders and tar files of them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from retrain.records import Drop
from retrain.store import ObjectStore


def picture(number: int, size: int = 8) -> np.ndarray:
    """Return pixels that are different for each number, uint8 [size, size, 3]."""
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(number: int, size: int = 8) -> bytes:
    """Return `picture(number)` as a PNG file."""
    return encoded(Image.fromarray(picture(number, size)))


def folder(root: Path, *names: str, first: int = 0) -> Path:
    """Write a PNG with different pixels under every name below `root`."""
    for number, name in enumerate(names, first):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """Write a tar file of these members. A bare name stands for a plain file."""
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def two_classes(root: Path, each: int = 40, first: int = 0) -> Path:
    """Write an image folder without splits, with `each` images of cats and of dogs.

    Another `first` gives other images.
    """
    names = (f"{name}/{number:03d}.png" for name in ("cat", "dog") for number in range(each))
    return folder(root, *names, first=first)


def two_colours(root: Path, each: int = 40) -> Path:
    """Write an image folder without splits. A network can learn its classes: cats are reddish, and dogs are bluish."""
    noise = np.random.default_rng(0)
    for name, tint in (("cat", (40, 0, -40)), ("dog", (-40, 0, 40))):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = (noise.normal(128, 40, (8, 8, 3)) + tint).clip(0, 255).astype(np.uint8)
            (root / name / f"{number:03d}.png").write_bytes(encoded(Image.fromarray(pixels)))
    return root


def shard_bytes(store: ObjectStore, drop: Drop) -> list[bytes]:
    """Return the bytes of a drop's shards."""
    return [store.read(f"{drop.task}/drops/{drop.id}/{shard.name}")[0] for shard in drop.shards]
