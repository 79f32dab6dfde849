"""Choose the pictures and labels of each drop, write them as image folders, and pack them.

A regime is one combination of data, network and order of drops (`settings.Regime`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from retrain.config import Split
from retrain.config.task import Task
from retrain.data.packing import pack
from retrain.data.staging import stable_hash
from retrain.experiments.regimes.images import Picture, Pool, apply_shift, choose_pictures
from retrain.experiments.regimes.settings import DropSetting, Regime, Shift
from retrain.store.task_store import TaskStore


class DropImage(NamedTuple):
    """One image of a drop, with its label. The label may be wrong."""

    split: Split
    label: str
    picture: Picture
    shift: tuple[Shift, ...]

    def read(self) -> bytes:
        """Return the image as a PNG file, changed by the drop's shifts."""
        data = self.picture.read()
        for shift in self.shift:
            data = apply_shift(data, shift)
        return data


def drop_name(number: int) -> str:
    """Return the id of a drop, counted from 1."""
    return f"drop-{number}"


def pack_drops(regime: Regime, seed: int, task: Task, store: TaskStore, root: Path, temporary: Path) -> None:
    """Pack all drops of a regime into a store, unless they are committed."""
    committed = {drop.id for drop in store.drops.all()}
    if committed >= {drop_name(number) for number in range(1, len(regime.drops) + 1)}:
        return
    pictures = choose_pictures(regime.images, seed, root, temporary)
    for number, drop in enumerate(choose_drop_images(regime, seed, pictures), 1):
        if drop_name(number) not in committed:
            folder = temporary / drop_name(number)
            _write_folder(drop, folder)
            pack(folder, task, store, drop_id=drop_name(number))


def choose_drop_images(regime: Regime, seed: int, pictures: Mapping[Split, Pool]) -> Iterator[list[DropImage]]:
    """Yield the images of each drop in turn. No picture is in two drops."""
    names = sorted(pictures["train"], key=lambda name: stable_hash(name, seed))
    arrived: dict[str, int] = {}
    """Percentage of each class's images that the drops so far contain."""
    for number, drop in enumerate(regime.drops):
        new = names[len(arrived) : len(arrived) + drop.new_classes]
        classes = new or list(arrived)
        images = [
            DropImage(split, name, picture, drop.shift)
            for split, pool in pictures.items()
            for name in classes
            for picture in _part(pool[name], arrived.get(name, 0), drop)
        ]
        for name in classes:
            arrived[name] = arrived.get(name, 0) + drop.percent
        yield [_mislabel(one, list(arrived), regime.images.label_noise, seed + 1000 * number) for one in images]


def _part(pictures: list[Picture], arrived: int, drop: DropSetting) -> list[Picture]:
    return pictures[len(pictures) * arrived // 100 : len(pictures) * (arrived + drop.percent) // 100]


def _mislabel(image: DropImage, known: list[str], noise: float, seed: int) -> DropImage:
    """Replace a training image's label by another class of the drops so far, with the probability `noise`."""
    if image.split != "train" or not noise:
        return image
    drawn = int.from_bytes(stable_hash(f"noise/{image.label}/{image.picture.name}", seed)[:8])
    if drawn / 2**64 >= noise:
        return image
    others = [name for name in known if name != image.label]
    return image._replace(label=others[drawn % len(others)])


def _write_folder(drop: list[DropImage], folder: Path) -> None:
    """Write a drop as split/label/name.png."""
    for image in drop:
        path = folder / image.split / image.label / f"{image.picture.class_name}-{image.picture.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read())
