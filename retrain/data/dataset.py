"""Datasets: ordered drops and their class map, the splits of samples, and where a run keeps decoded samples."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from math import prod

from retrain.config import Split
from retrain.config.fields import parse_bytes
from retrain.config.frame import Size, image_shape
from retrain.config.task import Data, Task
from retrain.errors import DamagedDrop, DropError
from retrain.records import Dataset, Drop, DropRef, Loading
from retrain.utils.text import format_bytes, pluralize


def order_drops(committed: Iterable[Drop], known: Sequence[str]) -> tuple[Drop, ...]:
    """Return the drops with the ids `known` in this order, and then all others by commit time and id.

    Raises `DropError` if a known drop is not committed.
    """
    by_id = {drop.id: drop for drop in committed}
    if missing := [drop_id for drop_id in known if drop_id not in by_id]:
        raise DropError(describe_removed(missing[0]))
    new = sorted(
        (by_id[drop_id] for drop_id in by_id.keys() - set(known)), key=lambda drop: (drop.committed_at, drop.id)
    )
    return (*(by_id[drop_id] for drop_id in known), *new)


def describe_removed(drop_id: str) -> str:
    """Return the error message for a drop that the champion was trained on and that is missing in the store."""
    return (
        f"drop {drop_id}: the champion was trained on it, but it is no longer in the store: restore its folder from a "
        "copy of the store"
    )


def make_dataset(drops: Iterable[Drop], classes: Iterable[str] = ()) -> Dataset:
    """Return the dataset of these drops in this order. Classes are in the order of their first appearance.

    `classes` are the classes of the run's parent. They come first, even if none of these drops contains them.
    """
    drops = tuple(drops)
    return Dataset(
        drops=tuple(DropRef(id=drop.id, digest=drop.digest, samples=drop.samples("train")) for drop in drops),
        classes=tuple(dict.fromkeys(chain(classes, *(drop.classes for drop in drops)))),
    )


def amended_drops(dataset: Dataset, before: Dataset) -> tuple[str, ...]:
    """Return the ids of the drops that are in both datasets and were amended in between."""
    seen = {drop.id: drop.digest for drop in before.drops}
    return tuple(drop.id for drop in dataset.drops if seen.get(drop.id, drop.digest) != drop.digest)


def untrained_classes(drops: Iterable[Drop]) -> list[str]:
    """Return the classes with held-out samples but without training samples in these drops."""
    trained, held_out = set[str](), set[str]()
    for drop in drops:
        trained |= drop.counts.get("train", {}).keys()
        held_out |= drop.counts.get("val", {}).keys() | drop.counts.get("test", {}).keys()
    return sorted(held_out - trained)


def check_drops(dataset: Dataset, drops: Sequence[Drop], splits: Collection[Split]) -> None:
    """Raise `DamagedDrop` for the first drop whose digest differs from the digest in the dataset.

    Raises `DropError` if `splits` contains train and samples were erased after the run was planned. The run then cannot
    be repeated or resumed. It can still be evaluated on the remaining samples.
    """
    for drop, ref in zip(drops, dataset.drops, strict=True):
        if drop.erased_since and "train" in splits:
            raise DropError(
                f"drop {drop.id}: {pluralize(drop.erased_since, 'image')} erased since this run was planned: plan a "
                "new run with `retrain run`"
            )
        if drop.digest != ref.digest:
            raise DamagedDrop(
                drop.id,
                f"drop {drop.id} has changed since the run was planned: the digest of its manifest differs from the "
                "plan's. Restore the manifest from a copy of the store",
            )


def held_out_shares(present: Collection[Split], data: Data) -> dict[Split, float]:
    """Return, for each split that is not `present`, the share of the training samples to hold out for it."""
    shares: dict[Split, float] = {"val": data.val_share, "test": data.test_share}
    return {split: share for split, share in shares.items() if split not in present}


def split_of(key: str, split: Split, held_out: Mapping[Split, float]) -> Split:
    """Return the split of a sample in a shard of `split`. Some train samples are held out for another split.

    The key's SHA-256 is read as a number in [0, 1). The lowest numbers give val, and the highest give test. Equal
    keys therefore get the same split in all drops with the same shares. The share of val does not change which samples
    are in test, and the share of test does not change which samples are in val.
    """
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
    if split == "train" and position < held_out.get("val", 0.0):
        return "val"
    if split == "train" and position >= 1 - held_out.get("test", 0.0):
        return "test"
    return split


def splits_within(split: Split, held_out: Mapping[Split, float]) -> set[Split]:
    """Return the splits that samples in a shard of `split` may belong to."""
    return {split, *held_out} if split == "train" else {split}


def decoded_bytes(samples: int, image_size: Size) -> int:
    """Return the size in bytes of this number of samples as uint8 [3, height, width]."""
    return samples * prod(image_shape(image_size))


def choose_loading(task: Task, dataset: Dataset) -> Loading:
    """Return where a run keeps its decoded samples: as the task states, or with `auto` by their size when decoded.

    The result is the same on every machine, because an interrupted run may resume elsewhere, and streaming changes the
    order of samples.
    """
    decoded, memory = decoded_bytes(dataset.samples, task.data.frame), parse_bytes(task.resources.memory)
    size = f"{dataset.samples:,} training samples take {format_bytes(decoded)} when decoded"
    if task.data.loader != "auto":
        return Loading(kind=task.data.loader, reason=f"{size}; the task sets data.loader")
    if 2 * decoded > memory:
        return Loading(kind="stream", reason=f"{size}, more than half of resources.memory ({task.resources.memory})")
    return Loading(kind="held", reason=f"{size}, at most half of resources.memory ({task.resources.memory})")
