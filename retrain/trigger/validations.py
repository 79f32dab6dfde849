"""Validations of drops that came to no end: counted before they begin, for what kills one may kill who counts, too."""

from collections.abc import Iterator
from contextlib import contextmanager

from retrain.layout import Layout
from retrain.records import Record
from retrain.store.base import Missing, Store
from retrain.trigger.apart import Died

LIMIT = 3
"""So often a drop's validation may come to no end before the drop is put into quarantine."""


class Validations(Record):
    """`validations/<drop-id>.json`: those that were begun, in a row, and came to no end; gone once one does."""

    drop: str
    begun: int = 0
    how: str = "whoever watched it was gone too"
    """What became of the last one."""


@contextmanager
def counted(store: Store, layout: Layout, drop: str) -> Iterator[Validations]:
    """Count what is done within as one of a drop's validations, and yield those before it.

    One whose process died, or that took this one along, stays counted. Any other end, an error or a wish to stop
    included, ends the row.
    """
    key = layout.validations(drop)
    before = _read(store, key, drop)
    begun = Validations(drop=drop, begun=before.begun + 1)
    store.write(key, begun.to_bytes())
    try:
        yield before
    except Died as died:
        store.write(key, begun.model_copy(update={"how": str(died)}).to_bytes())
        raise
    except BaseException:
        store.delete(key)
        raise
    store.delete(key)


def _read(store: Store, key: str, drop: str) -> Validations:
    try:
        return Validations.model_validate_json(store.read(key)[0])
    except Missing:
        return Validations(drop=drop)
