"""The drops of a task in its store: which are committed, which are in quarantine, which have only landed."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError

from retrain.errors import DamagedDrop, DropError
from retrain.records import Drop, Record
from retrain.records.drop import parse_manifest
from retrain.store.base import Conflict, Entry, Missing, ObjectStore
from retrain.store.layout import Layout
from retrain.utils.parallel import map_ahead

log = logging.getLogger("retrain")


def find_drop(store: ObjectStore, layout: Layout, drop_id: str) -> Drop | None:
    """Return a drop's manifest, or None if no such drop is committed. Raises `DamagedDrop` if it is not right."""
    key = layout.manifest(drop_id)
    try:
        drop = parse_manifest(store.read(key)[0])
    except Missing:
        return None
    except DropError as error:
        raise DamagedDrop(drop_id, f"{store.url}/{key}: {error}") from error
    if (drop.id, drop.task) != (drop_id, layout.task):
        raise DamagedDrop(drop_id, f"{store.url}/{key}: this is the manifest of drop {drop.id} of task {drop.task}")
    return drop


def read_drop(store: ObjectStore, layout: Layout, drop_id: str) -> Drop:
    """Return a drop's manifest. Raises `DropError` if no such drop is committed; `DamagedDrop` as above."""
    drop = find_drop(store, layout, drop_id)
    if drop is None:
        raise DropError(f"task {layout.task} has no drop {drop_id} in {store.url}")
    return drop


class CommittedDrops(NamedTuple):
    """The drops whose manifests are in the store, by id: those to be used, and those in quarantine."""

    usable: tuple[str, ...]
    quarantined: frozenset[str]


def list_committed(store: ObjectStore, layout: Layout) -> CommittedDrops:
    """Look which drops are committed. Their manifests are not read."""
    named = re.compile(re.escape(layout.drops) + r"([^/]+)/(drop|quarantine)\.json")
    found = [match.groups() for entry in store.list(layout.drops) if (match := named.fullmatch(entry.key))]
    quarantined = frozenset(drop for drop, name in found if name == "quarantine")
    return CommittedDrops(
        tuple(drop for drop, name in found if name == "drop" and drop not in quarantined), quarantined
    )


def list_drops(store: ObjectStore, layout: Layout) -> tuple[Drop, ...]:
    """Return all committed drops that are not in quarantine, in the order of their commit (and id).

    Raises `DamagedDrop` at a damaged manifest.
    """
    drops = map_ahead(partial(read_drop, store, layout), list_committed(store, layout).usable)
    return tuple(sorted(drops, key=lambda drop: (drop.committed_at, drop.id)))


def list_readable_drops(store: ObjectStore, layout: Layout) -> tuple[Drop, ...]:
    """Return the same without those whose manifests are damaged, with a warning: for those who only look on."""

    def whole(drop_id: str) -> Drop | None:
        try:
            return read_drop(store, layout, drop_id)
        except DamagedDrop as damaged:
            log.warning("%s; the next retraining puts it in quarantine", damaged)
            return None

    drops = filter(None, map_ahead(whole, list_committed(store, layout).usable))
    return tuple(sorted(drops, key=lambda drop: (drop.committed_at, drop.id)))


class Quarantine(Record):
    """`drops/<id>/quarantine.json`: no run takes the drop. Deleting the report gives the drop another chance."""

    drop: str
    task: str
    cause: str
    """Naming shard, key and what is wrong."""
    found_at: datetime


def quarantine(store: ObjectStore, layout: Layout, drop: str, cause: str) -> None:
    """Put a drop into quarantine, and say so; the first report stays."""
    report = Quarantine(drop=drop, task=layout.task, cause=cause, found_at=datetime.now(UTC))
    with suppress(Conflict):
        store.create(layout.quarantine(drop), report.to_bytes())
    log.warning("%s: drop %s is in quarantine: %s", layout.task, drop, cause)


def quarantine_damaged(store: ObjectStore, layout: Layout, damaged: DamagedDrop) -> None:
    """Put a drop into quarantine that proved damaged: the next plan does without it."""
    quarantine(store, layout, damaged.drop, str(damaged))


def quarantine_causes(store: ObjectStore, layout: Layout) -> dict[str, str]:
    """Return why each drop in quarantine is there."""
    found = {}
    for drop in sorted(list_committed(store, layout).quarantined):
        with suppress(Missing):  # somebody has just given it another chance
            found[drop] = _cause(store.read(layout.quarantine(drop))[0])
    return found


def _cause(report: bytes) -> str:
    try:
        return Quarantine.model_validate_json(report).cause
    except ValidationError:
        return "a report that somebody wrote by hand"


@dataclass
class DropStates:
    """Ids of drops, by the objects that say so. A drop of which only shards lie there has not landed yet."""

    committed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)

    @property
    def waiting(self) -> set[str]:
        """Drops that can be trained on."""
        return self.committed - self.quarantined

    @property
    def unvalidated(self) -> set[str]:
        """Drops whose producer has uploaded all but a manifest."""
        return self.ended - self.committed - self.quarantined


def scan_drops(store: ObjectStore, layout: Layout, drops: Iterable[str] | None = None) -> DropStates:
    """Look at the drops of these ids, or at all. Memory grows with the drops, not with their objects.

    Of a drop that is named, only the objects that tell its state are asked for; of all, every object is listed.
    """
    landed = DropStates()
    kinds = {"drop.json": landed.committed, "_SUCCESS": landed.ended, "quarantine.json": landed.quarantined}
    named = [layout.shard(drop, name) for drop in sorted(drops or ()) for name in kinds]
    for entry in store.list(layout.drops) if drops is None else _each(store, named):
        drop, _, name = entry.key.removeprefix(layout.drops).partition("/")
        if name in kinds:
            kinds[name].add(drop)
    return landed


def _each(store: ObjectStore, keys: Iterable[str]) -> Iterator[Entry]:
    """The objects of these keys that there are, asked for some at a time: an answer is mostly waited for."""
    for found in map_ahead(lambda key: list(store.list(key)), keys):
        yield from found
