"""What lies under `drops/`: which drops are committed, which have ended without a manifest, which are in quarantine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from retrain.layout import Layout
from retrain.store.base import Entry, Store
from retrain.store.parallel import ask_all


@dataclass
class Landed:
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


def scan(store: Store, layout: Layout, drops: Iterable[str] | None = None) -> Landed:
    """Look at the drops of these ids, or at all. Memory grows with the drops, not with their objects.

    Of a drop that is named, only the objects that tell its state are asked for; of all, every object is listed.
    """
    landed = Landed()
    kinds = {"drop.json": landed.committed, "_SUCCESS": landed.ended, "quarantine.json": landed.quarantined}
    named = [layout.shard(drop, name) for drop in sorted(drops or ()) for name in kinds]
    for entry in store.list(layout.drops) if drops is None else _each(store, named):
        drop, _, name = entry.key.removeprefix(layout.drops).partition("/")
        if name in kinds:
            kinds[name].add(drop)
    return landed


def _each(store: Store, keys: Iterable[str]) -> Iterator[Entry]:
    """The objects of these keys that there are, asked for some at a time: an answer is mostly waited for."""
    for found in ask_all(lambda key: list(store.list(key)), keys):
        yield from found
