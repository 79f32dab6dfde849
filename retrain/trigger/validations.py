"""Validations of drops that came to no end: counted before they begin, for what kills one may kill who counts, too.

A drop is validated by one at a time, who holds its lease: what is counted by then has died, or froze until its lease
had expired, and is not just under way.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from retrain.apart import Died
from retrain.layout import Layout
from retrain.records import Record
from retrain.store.base import Missing, Store
from retrain.stored import read_record
from retrain.trigger.at_work import Busy
from retrain.trigger.fence import Fenced
from retrain.trigger.lease import SECONDS, LeaseLost, held

LIMIT = 3
"""So often a drop's validation may come to no end before the drop is put into quarantine."""


class Validations(Record):
    """`validations/<drop-id>.json`: those that were begun, in a row, and came to no end; gone once one does."""

    drop: str
    begun: int = 0
    how: str = "whoever watched it was gone too"
    """What became of the last one."""


class Counted(NamedTuple):
    """A drop's validations before this one, and a store that takes what this one writes for as long as it is ours."""

    before: Validations
    store: Store


@contextmanager
def counted(store: Store, layout: Layout, drop: str, seconds: float = SECONDS) -> Iterator[Counted]:
    """Count what is done within as one of a drop's validations.

    The drop's lease, which lasts `seconds` without a heartbeat, is held within, so those before it are over. Raises
    `Busy` at once if somebody else has it (one that is under way is no death), or once a write finds it lost.

    One whose process died, or that took this one along, stays counted. Any other end, an error or a wish to stop
    included, ends the row.
    """
    key = layout.validations(drop)
    with held(store, layout.validating(drop), seconds) as lease:
        if lease is None:
            raise Busy(f"drop {drop}: another watcher is validating it, or died less than {seconds:.0f} s ago")
        ours = Fenced(store, lease)
        before = _read(ours, key, drop)
        begun = Validations(drop=drop, begun=before.begun + 1)
        try:
            ours.write(key, begun.to_bytes())
            yield Counted(before, ours)
        except LeaseLost as lost:
            raise Busy(f"drop {drop}: another watcher has taken over its validation") from lost
        except Died as died:
            with suppress(LeaseLost):
                ours.write(key, begun.model_copy(update={"how": str(died)}).to_bytes())
            raise
        except BaseException:
            _end(ours, key)
            raise
        _end(ours, key)


def _end(ours: Store, key: str) -> None:
    """End the row; once the lease is lost, it is the successor's."""
    with suppress(LeaseLost):
        ours.delete(key)


def _read(store: Store, key: str, drop: str) -> Validations:
    try:
        return read_record(store, key, Validations)[0]
    except Missing:
        return Validations(drop=drop)
