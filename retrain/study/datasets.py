"""Data sets by name: an image folder (or tars of that shape) below the root, or one that a library loads."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from retrain.errors import StudyError

Labelled = Iterable[tuple[Any, int]]
"""PIL images and labels."""

IMAGENET = "ImageNet's ILSVRC-2012 (image-net.org), as train/CLASS/*.JPEG and test/CLASS/*.JPEG"
FETCH = {
    "imagenet-100": f"100 classes of {IMAGENET}",
    "imagenet-200": f"200 classes of {IMAGENET}",
    "adaptiope-product-images": "Adaptiope's product images (gitlab.com/tringwald/adaptiope), as CLASS/*.jpg",
    "adaptiope-real-life": "Adaptiope's real-life images (gitlab.com/tringwald/adaptiope), as CLASS/*.jpg",
}
"""What has to be fetched by hand, and how it must lie."""


def _cifar(kind: str) -> Callable[[Path, str, bool], Any]:
    def load(root: Path, split: str, download: bool) -> Any:
        from torchvision import datasets

        return getattr(datasets, kind)(root, train=split == "train", download=download)

    return load


def _svhn(root: Path, split: str, download: bool) -> Any:
    from torchvision import datasets

    return datasets.SVHN(root, split=split, download=download)


LOADERS = {"cifar10": _cifar("CIFAR10"), "cifar100": _cifar("CIFAR100"), "svhn": _svhn}


def find(name: str, root: Path, download: bool, scratch: Path) -> Path:
    """Return a source of labelled images, as `retrain drop pack` takes it.

    It is `root/name` if there is such a thing; else the data set is loaded by name, and written into `scratch`.
    Raises `StudyError`, saying what to fetch and where to put it, if it is not at hand.
    """
    if (root / name).exists():
        return root / name
    if name == "digits":
        from retrain.demo import write_digits

        write_digits(scratch)
    elif name in LOADERS:
        for split in ("train", "test"):
            export(_load(name, root, split, download), scratch / split)
    else:
        raise StudyError(f"data set {name} is not at hand: {how_to_get(name, root)}, or say --root FOLDER")
    return scratch


def how_to_get(name: str, root: Path) -> str:
    """Say what to fetch for a data set, and where to put it."""
    if name in LOADERS:
        return f"say --download, or put an image folder into {root / name}"
    return f"put {FETCH.get(name, 'an image folder, CLASS/*.png, or tars of that shape')} into {root / name}"


def at_hand(name: str, root: Path) -> bool:
    """Say whether a data set is there, as an image folder or as torchvision keeps it, or needs no fetching."""
    files = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "svhn": "train_32x32.mat"}
    return name == "digits" or (root / name).exists() or (name in files and (root / files[name]).exists())


def export(images: Labelled, folder: Path) -> None:
    """Write a data set of PIL images as an image folder: class/number.png."""
    names = getattr(images, "classes", None)
    for number, (image, label) in enumerate(images):
        path = folder / (names[label] if names else str(label)) / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def _load(name: str, root: Path, split: str, download: bool) -> Any:
    try:
        return LOADERS[name](root, split, download)
    except (RuntimeError, OSError) as error:
        raise StudyError(
            f"data set {name} is not in {root}, not even as torchvision keeps it ({error}); "
            f"{how_to_get(name, root)}, or say --root FOLDER"
        ) from error
