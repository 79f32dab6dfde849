"""The drops of a task that are committed: those whose manifest is in the store."""

import logging
import re
from functools import partial
from typing import NamedTuple

from retrain.data.manifest import parse
from retrain.errors import DamagedDrop, DropError
from retrain.layout import Layout
from retrain.records import Drop
from retrain.store.base import Missing, Store
from retrain.store.parallel import ask_all

log = logging.getLogger("retrain")


def find_drop(store: Store, layout: Layout, drop_id: str) -> Drop | None:
    """Return a drop's manifest, or None if no such drop is committed. Raises `DamagedDrop` if it is not right."""
    key = layout.manifest(drop_id)
    try:
        drop = parse(store.read(key)[0])
    except Missing:
        return None
    except DropError as error:
        raise DamagedDrop(drop_id, f"{store.url}/{key}: {error}") from error
    if (drop.id, drop.task) != (drop_id, layout.task):
        raise DamagedDrop(drop_id, f"{store.url}/{key}: this is the manifest of drop {drop.id} of task {drop.task}")
    return drop


def read_drop(store: Store, layout: Layout, drop_id: str) -> Drop:
    """Return a drop's manifest. Raises `DropError` if no such drop is committed; `DamagedDrop` as above."""
    drop = find_drop(store, layout, drop_id)
    if drop is None:
        raise DropError(f"task {layout.task} has no drop {drop_id} in {store.url}")
    return drop


class Shelf(NamedTuple):
    """The drops whose manifests are in the store, by id: those to be used, and those in quarantine."""

    usable: tuple[str, ...]
    quarantined: frozenset[str]


def shelf(store: Store, layout: Layout) -> Shelf:
    """Look which drops are committed. Their manifests are not read."""
    named = re.compile(re.escape(layout.drops) + r"([^/]+)/(drop|quarantine)\.json")
    found = [match.groups() for entry in store.list(layout.drops) if (match := named.fullmatch(entry.key))]
    quarantined = frozenset(drop for drop, name in found if name == "quarantine")
    return Shelf(tuple(drop for drop, name in found if name == "drop" and drop not in quarantined), quarantined)


def list_drops(store: Store, layout: Layout) -> tuple[Drop, ...]:
    """Return all committed drops that are not in quarantine, in the order of their commit (and id).

    Raises `DamagedDrop` at a damaged manifest.
    """
    drops = ask_all(partial(read_drop, store, layout), shelf(store, layout).usable)
    return tuple(sorted(drops, key=lambda drop: (drop.committed_at, drop.id)))


def list_whole_drops(store: Store, layout: Layout) -> tuple[Drop, ...]:
    """Return the same without those whose manifests are damaged, with a warning: for those who only look on."""

    def whole(drop_id: str) -> Drop | None:
        try:
            return read_drop(store, layout, drop_id)
        except DamagedDrop as damaged:
            log.warning("%s; the next retraining puts it in quarantine", damaged)
            return None

    drops = filter(None, ask_all(whole, shelf(store, layout).usable))
    return tuple(sorted(drops, key=lambda drop: (drop.committed_at, drop.id)))
