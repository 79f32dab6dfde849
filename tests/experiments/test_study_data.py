"""Tests of reading, exporting and packing data: small files in the formats of the papers' data sets."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from scipy.io import savemat
from support.pictures import picture
from support.studying import small_study, workplace
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from retrain.data.source import read_source
from retrain.errors import StudyError
from retrain.experiments.datasets import PUBLISHED, find_data_set, is_available, load_split, write_image_folder
from retrain.experiments.drops import DataRoot, commit_drops, prepared_data
from retrain.experiments.grid import cells
from retrain.experiments.runs import Runs


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def rows(numbers: range) -> np.ndarray:
    """Return images in the format of CIFAR's files: uint8 [n, 3072], with all red values of an image first."""
    return np.stack([picture(number, 32).transpose(2, 0, 1).reshape(-1) for number in numbers])


def write_pickles(folder: Path, batches: Mapping[str, object]) -> list[list[str]]:
    """Write batches as pickles. Return their names and digests in the format of torchvision's lists."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in batches.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return [[name, md5(folder / name)] for name in batches]


def small_cifar(root: Path, kind: Any, labels: str, names: str, train: list[str], classes: int) -> Any:
    """Write CIFAR's files with four images each. Return a torchvision class with their digests."""
    folder = root / kind.base_folder
    batches = {
        name: {"data": rows(range(4 * at, 4 * at + 4)), labels: [(4 * at + n) % classes for n in range(4)]}
        for at, name in enumerate([*train, kind.test_list[0][0]])
    }
    *trained, test = write_pickles(folder, batches)
    ((meta, digest),) = write_pickles(folder, {kind.meta["filename"]: {names: [f"name {n}" for n in range(classes)]}})
    known = {"train_list": trained, "test_list": [test], "meta": {"filename": meta, "key": names, "md5": digest}}
    return type("Small", (kind,), known)


def small_svhn(root: Path) -> Any:
    """Write SVHN's files with four and three images. Return a torchvision class. The digit 0 has the label 10."""
    known = {}
    for split, numbers in {"train": range(4), "test": range(4, 7)}.items():
        file = SVHN.split_list[split][1]
        images = np.stack([picture(number, 32) for number in numbers], axis=3)
        savemat(root / file, {"X": images, "y": np.array([[number or 10] for number in numbers], np.uint8)})
        known[split] = [SVHN.split_list[split][0], file, md5(root / file)]
    return type("Small", (SVHN,), {"split_list": known})


def exported(kind: Any, root: Path, folder: Path) -> dict[str, np.ndarray]:
    """Export both splits. Return the pixels of each image by `split/class/number`."""
    for split in ("train", "test"):
        write_image_folder(load_split(kind, root, split, False), folder / split)
    return {
        path.relative_to(folder).with_suffix("").as_posix(): np.asarray(Image.open(path))
        for path in sorted(folder.rglob("*.png"))
    }


def test_cifar_10_is_read_from_its_five_batches(tmp_path: Path) -> None:
    train = [f"data_batch_{number}" for number in range(1, 6)]
    kind = small_cifar(tmp_path, CIFAR10, "labels", "label_names", train, 10)
    found = exported(kind, tmp_path, tmp_path / "out")
    assert len(found) == 24
    assert all((found[f"train/name {n % 10}/{n:06d}"] == picture(n, 32)).all() for n in range(20))
    assert all((found[f"test/name {(20 + n) % 10}/{n:06d}"] == picture(20 + n, 32)).all() for n in range(4))


def test_cifar_100_is_read_with_its_fine_labels(tmp_path: Path) -> None:
    found = exported(
        small_cifar(tmp_path, CIFAR100, "fine_labels", "fine_label_names", ["train"], 100), tmp_path, tmp_path / "out"
    )
    assert sorted(found) == [
        *(f"test/name {4 + n}/{n:06d}" for n in range(4)),
        *(f"train/name {n}/{n:06d}" for n in range(4)),
    ]
    assert (found["train/name 3/000003"] == picture(3, 32)).all()


def test_svhn_matlab_label_ten_is_read_as_zero(tmp_path: Path) -> None:
    found = exported(small_svhn(tmp_path), tmp_path, tmp_path / "out")
    assert sorted(found) == [*(f"test/{n + 4}/{n:06d}" for n in range(3)), *(f"train/{n}/{n:06d}" for n in range(4))]
    assert all((found[f"train/{n}/{n:06d}"] == picture(n, 32)).all() for n in range(4))


def test_files_with_unpublished_digests_are_refused(tmp_path: Path) -> None:
    small_cifar(tmp_path, CIFAR10, "labels", "label_names", [f"data_batch_{n}" for n in range(1, 6)], 10)
    small_cifar(tmp_path, CIFAR100, "fine_labels", "fine_label_names", ["train"], 100)
    small_svhn(tmp_path)
    for name, published in PUBLISHED.items():
        assert is_available(name, tmp_path)
        with pytest.raises(
            StudyError, match=rf"{name} is missing in .*corrupted.* pass --download, or {published.where}"
        ):
            find_data_set(name, tmp_path, False, tmp_path / "scratch")


def photo(path: Path, number: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number, 32)).resize(size).save(path, "JPEG")


def imagenet(root: Path) -> None:
    """Write images with the class and file names of ILSVRC-2012. They have several shapes, and one is grey."""
    for label, synset in enumerate(("n01440764", "n02102040", "n03888257", "n03000684", "n02979186")):
        for number in range(20):
            split = "test" if number < 5 else "train"
            photo(root / split / synset / f"{synset}_{number}.JPEG", 20 * label + number, (50, 37 + number))
    Image.open(root / "train" / synset / f"{synset}_9.JPEG").convert("L").save(root / "train" / synset / "grey.JPEG")


def adaptiope(root: Path, first: int = 0) -> None:
    """Write square photographs in Adaptiope's layout. Each class has a folder, and all domains have the same classes.

    With another `first`, the photographs are different.
    """
    for label, name in enumerate(("acoustic guitar", "backpack", "bookcase", "fighter jet")):
        for number in range(30):
            photo(root / name / f"{number}.jpg", first + 30 * label + number, (67, 67))


@pytest.fixture
def study_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with workplace(tmp_path / "study_root"):
        yield tmp_path


def committed_sizes(study_root: Path, names: list[str], split: dict[str, str]) -> list[tuple[int, int]]:
    """Commit the drops of a study. Return each drop's number of classes and number of images."""
    study = small_study(data=[{"name": name} for name in names], splits={"split": split})
    runs = Runs(study, str(study_root / "store"))
    drops = commit_drops(study, "split", runs.task(next(cells(study, 1))), runs.objects, DataRoot(study_root))
    return [(len(drop.classes), sum(map(drop.samples, ("train", "val", "test")))) for drop in drops]


def test_imagenet_is_split_by_class_with_all_its_images(study_root: Path) -> None:
    imagenet(study_root / "imagenet-100")
    drops = committed_sizes(study_root, ["imagenet-100"], {"by": "classes", "sizes": "4+1"})
    assert [classes for classes, _ in drops] == [4, 1]
    assert sum(images for _, images in drops) == 101


def test_adaptiope_has_one_drop_per_domain_with_equal_classes(study_root: Path) -> None:
    names = ["adaptiope-product-images", "adaptiope-real-life"]
    for number, name in enumerate(names):
        adaptiope(study_root / name, first=1000 * number)
    assert committed_sizes(study_root, names, {"by": "source"}) == [(4, 120), (4, 120)]
    assert committed_sizes(study_root, names[:1], {"by": "classes", "sizes": "3+1"}) == [(3, 90), (1, 30)]


def coarse_cifar(root: Path) -> None:
    """Write images of six CIFAR-100 classes of three superclasses, in both splits."""
    for number, name in enumerate(("beaver", "otter", "trout", "shark", "orchid", "tulip")):
        for index in range(6):
            to = root / "cifar100" / ("test" if index < 2 else "train") / name / f"{index}.png"
            to.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(10 * number + index, 32)).save(to)


def test_superclasses_replace_the_classes_of_drops(study_root: Path) -> None:
    coarse_cifar(study_root)
    study = small_study(
        data=[{"name": "cifar100", "superclasses": True, "per_class": 6}],
        splits={"split": {"by": "classes", "sizes": "2+1"}},
        stop_on="test",
    )
    runs = Runs(study, str(study_root / "store"))
    drops = commit_drops(study, "split", runs.task(next(cells(study, 1))), runs.objects, DataRoot(study_root))
    assert sorted(name for drop in drops for name in drop.classes) == ["aquatic mammals", "fish", "flowers"]
    assert [(drop.samples("train"), drop.samples("test")) for drop in drops] == [(12, 8), (6, 4)]
    study = small_study(data=[{"name": "digits", "superclasses": True}])
    runs = Runs(study, str(study_root / "other"))
    with pytest.raises(StudyError, match="only cifar100 has superclasses"):
        commit_drops(study, "7+3", runs.task(next(cells(study, 1))), runs.objects, DataRoot(study_root / "study_root"))


def test_twin_domain_has_an_altered_copy_of_each_image(study_root: Path) -> None:
    coarse_cifar(study_root)
    data = [{"name": "cifar100"}, {"name": "cifar100", "twin": True}]
    study = small_study(data=data, splits={"domains": {"by": "source"}}, stop_on="test")
    task = Runs(study, str(study_root / "store")).task(next(cells(study, 1)))
    with prepared_data(study, DataRoot(study_root), task) as (sources, _):
        found = [
            {sample.key: sample for sample in read_source(source) if sample.split == "train"} for source in sources
        ]
        assert found[0].keys() == found[1].keys()
        for key, sample in found[0].items():
            image, twin = (Image.open(io.BytesIO(each.entry.read())).convert("RGB") for each in (sample, found[1][key]))
            expected = ImageOps.posterize(ImageOps.invert(image).filter(ImageFilter.GaussianBlur(2)), 2)
            assert twin.tobytes() == expected.tobytes()
