"""The drops of a task that are committed: those whose manifest is in the store."""

import re
from collections.abc import Iterator

from pydantic import ValidationError

from retrain.errors import DropError
from retrain.layout import Layout
from retrain.records import Drop, digest
from retrain.store.base import Missing, Store


def drop_digest(drop: Drop) -> str:
    """Identity of a drop's content: everything but what it is called and when it came."""
    return digest(drop.model_dump(mode="json", exclude={"id", "committed_at", "digest"}))


def find_drop(store: Store, layout: Layout, drop_id: str) -> Drop | None:
    """Return a drop's manifest, or None if no such drop is committed. Raises `DropError` if the manifest is damaged."""
    key = layout.manifest(drop_id)
    try:
        drop = Drop.model_validate_json(store.read(key)[0])
    except Missing:
        return None
    except ValidationError as error:
        raise DropError(f"{store.url}: {key}: not a drop's manifest: {error}") from error
    if drop.id != drop_id or drop.digest != drop_digest(drop):
        raise DropError(f"{store.url}: {key}: its id or digest does not fit its content: somebody changed it")
    return drop


def read_drop(store: Store, layout: Layout, drop_id: str) -> Drop:
    """Return a drop's manifest. Raises `DropError` if no such drop is committed, or the manifest is damaged."""
    drop = find_drop(store, layout, drop_id)
    if drop is None:
        raise DropError(f"task {layout.task} has no drop {drop_id} in {store.url}")
    return drop


def each_drop(store: Store, layout: Layout) -> Iterator[Drop]:
    """Yield all committed drops that are not in quarantine. Raises `DropError` at a damaged manifest."""
    named = re.compile(re.escape(layout.drops) + r"([^/]+)/(drop|quarantine)\.json")
    found = [match.groups() for entry in store.list(layout.drops) if (match := named.fullmatch(entry.key))]
    quarantined = {drop for drop, name in found if name == "quarantine"}
    for drop, name in found:
        if name == "drop" and drop not in quarantined:
            yield read_drop(store, layout, drop)


def list_drops(store: Store, layout: Layout) -> tuple[Drop, ...]:
    """Return the same in the order of their commit (and id)."""
    return tuple(sorted(each_drop(store, layout), key=lambda drop: (drop.committed_at, drop.id)))
