"""Find a study's data set by its name: an image folder or tars below the root, or a data set that a library loads."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from retrain.errors import StudyError

Labelled = Iterable[tuple[Any, int]]
"""PIL images and labels."""


class Published(NamedTuple):
    """A data set that torchvision loads."""

    kind: str
    """Name of torchvision's class."""
    files: str
    """A file or folder of the data set. If it exists, the data set is present."""
    where: str
    """Instruction to get the files by hand if this machine cannot download them. It begins with a verb."""


CIFAR = "https://www.cs.toronto.edu/~kriz"
PUBLISHED = {
    "cifar10": Published("CIFAR10", "cifar-10-batches-py", f"unpack {CIFAR}/cifar-10-python.tar.gz"),
    "cifar100": Published("CIFAR100", "cifar-100-python", f"unpack {CIFAR}/cifar-100-python.tar.gz"),
    "svhn": Published(
        "SVHN", "train_32x32.mat", "put train_32x32.mat and test_32x32.mat of http://ufldl.stanford.edu/housenumbers/"
    ),
}
IMAGENET = "ImageNet's ILSVRC-2012 (image-net.org), as train/CLASS/*.JPEG and test/CLASS/*.JPEG,"
BY_HAND = {
    "imagenet-100": f"100 classes of {IMAGENET}",
    "imagenet-200": f"200 classes of {IMAGENET}",
    "adaptiope-product-images": "Adaptiope's product_images (gitlab.com/tringwald/adaptiope), as CLASS/*.jpg,",
    "adaptiope-real-life": "Adaptiope's real_life images (gitlab.com/tringwald/adaptiope), as CLASS/*.jpg,",
}
"""Data sets that must be fetched by hand, with their layout."""


def find_data_set(name: str, root: Path, download: bool, temporary: Path) -> Path:
    """Return a source of labelled images, in the form for `retrain drop pack`.

    It is `root/name` if that exists. Otherwise the data set is loaded by name and written to `temporary`. If it is
    missing, this raises `StudyError` with instructions to get it.
    """
    if (root / name).exists():
        return root / name
    if name != "digits" and name not in PUBLISHED:
        raise StudyError(f"data set {name} is missing: {how_to_get(name, root)}, or pass --root FOLDER")
    try:
        _write(name, root, download, temporary)
    except ImportError as error:
        raise StudyError(
            f"data set {name} cannot be read: {error}: run `pip install 'retrain-classifiers[demo]'`"
        ) from error
    except (RuntimeError, OSError) as error:
        raise StudyError(
            f"data set {name} is missing in {root} ({error}): {how_to_get(name, root)}, or pass --root FOLDER"
        ) from error
    return temporary


def _write(name: str, root: Path, download: bool, folder: Path) -> None:
    if name == "digits":
        write_digits(folder)
        return
    from torchvision import datasets

    for split in ("train", "test"):
        write_image_folder(load_split(getattr(datasets, PUBLISHED[name].kind), root, split, download), folder / split)


def write_digits(folder: Path) -> None:
    """Write 1,797 scanned digits, 8x8 pixels, as an image folder: `<digit>/<number>.png`."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(path)


def load_split(kind: Any, root: Path, split: str, download: bool) -> Any:
    """Return a split of a torchvision data set. Some torchvision classes have a parameter `train`, others `split`."""
    named = "split" in inspect.signature(kind).parameters
    return kind(root, download=download, **({"split": split} if named else {"train": split == "train"}))


def how_to_get(name: str, root: Path) -> str:
    """Return instructions: what to fetch for a data set, and where to put it."""
    if name in PUBLISHED:
        return f"pass --download, or {PUBLISHED[name].where} into {root}, or put an image folder at {root / name}"
    return f"put {BY_HAND.get(name, 'an image folder, CLASS/*.png, or tars of it,')} into {root / name}"


def is_available(name: str, root: Path) -> bool:
    """Return whether a data set is built in, or present as an image folder or as torchvision's files."""
    published = name in PUBLISHED and (root / PUBLISHED[name].files).exists()
    return name == "digits" or (root / name).exists() or published


def write_image_folder(images: Labelled, folder: Path) -> None:
    """Write a data set of PIL images as an image folder: class/number.png."""
    names = getattr(images, "classes", None)
    for number, (image, label) in enumerate(images):
        path = folder / (names[label] if names else str(label)) / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
