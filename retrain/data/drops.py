"""The drops of a task that are committed: those whose manifest is in the store."""

import re
from collections.abc import Iterator

from retrain.data.manifest import parse
from retrain.errors import DamagedDrop, DropError
from retrain.layout import Layout
from retrain.records import Drop
from retrain.store.base import Missing, Store


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


def each_drop(store: Store, layout: Layout) -> Iterator[Drop]:
    """Yield all committed drops that are not in quarantine. Raises `DamagedDrop` at a damaged manifest."""
    named = re.compile(re.escape(layout.drops) + r"([^/]+)/(drop|quarantine)\.json")
    found = [match.groups() for entry in store.list(layout.drops) if (match := named.fullmatch(entry.key))]
    quarantined = {drop for drop, name in found if name == "quarantine"}
    for drop, name in found:
        if name == "drop" and drop not in quarantined:
            yield read_drop(store, layout, drop)


def list_drops(store: Store, layout: Layout) -> tuple[Drop, ...]:
    """Return the same in the order of their commit (and id)."""
    return tuple(sorted(each_drop(store, layout), key=lambda drop: (drop.committed_at, drop.id)))
