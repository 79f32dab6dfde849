"""Datasets: drops in an order that only grows at its end, and so a class map that does too."""

from collections.abc import Iterable, Sequence
from itertools import chain

from retrain.errors import DamagedDrop, DropError
from retrain.records import Dataset, Drop, DropRef


def order_drops(committed: Iterable[Drop], known: Sequence[str]) -> tuple[Drop, ...]:
    """Return the `known` drops (ids) in their order, then all others by the time of their commit, and id.

    Raises `DropError` if a known drop is not among those committed.
    """
    by_id = {drop.id: drop for drop in committed}
    if missing := [drop_id for drop_id in known if drop_id not in by_id]:
        raise DropError(f"drop {missing[0]}: the champion was trained on it, but it is not in the store any more")
    new = sorted(
        (drop for drop in by_id.values() if drop.id not in known), key=lambda drop: (drop.committed_at, drop.id)
    )
    return (*(by_id[drop_id] for drop_id in known), *new)


def make_dataset(drops: Iterable[Drop], classes: Iterable[str] = ()) -> Dataset:
    """Return the dataset of these drops, in this order: classes by name, in order of their first appearance.

    Those that a parent has come first, as it has them, though all their drops may be gone.
    """
    drops = tuple(drops)
    return Dataset(
        drops=tuple(DropRef(id=drop.id, digest=drop.digest, samples=drop.samples("train")) for drop in drops),
        classes=tuple(dict.fromkeys(chain(classes, *(drop.classes for drop in drops)))),
    )


def check_drops(dataset: Dataset, drops: Sequence[Drop]) -> None:
    """Raise `DamagedDrop` at the first of these manifests that is not that of the dataset's drop in its place."""
    for drop, ref in zip(drops, dataset.drops, strict=True):
        if drop.digest != ref.digest:
            raise DamagedDrop(drop.id, f"drop {drop.id} is not the one that the dataset was made of: it was changed")
