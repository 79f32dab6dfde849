"""Every check, in the order in which one would mend what they find."""

from collections.abc import Iterator
from functools import cache, partial

from retrain.config import Task
from retrain.data.drops import list_whole_drops
from retrain.doctor.finding import Finding
from retrain.doctor.hardware import hardware
from retrain.doctor.storage import storage
from retrain.layout import Layout
from retrain.store.base import Store


def examine(task: Task, store: Store) -> Iterator[Finding]:
    """Yield findings about this machine and the task's store; those of this machine need the store's drops.

    Drops with a damaged manifest are left out, with a warning: the next run puts them in quarantine and goes on.
    """
    drops = cache(partial(list_whole_drops, store, Layout(task.name)))
    usable = True
    for finding in storage(store, task.name, drops):
        usable = finding.state != "failed"
        yield finding
    if usable:
        yield from hardware(task, store, drops())
