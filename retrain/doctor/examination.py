"""Every check, in the order in which one would mend what they find."""

from collections.abc import Iterator
from functools import cache, partial

from retrain.config import Task
from retrain.data.drops import list_whole_drops
from retrain.doctor.finding import Finding
from retrain.doctor.hardware import hardware
from retrain.doctor.readiness import readiness
from retrain.doctor.storage import storage
from retrain.layout import Layout
from retrain.store.base import Store


def examine(task: Task, store: Store) -> Iterator[Finding]:
    """Yield findings about the task's store, this machine and the next run; the latter two need the store's drops.

    Drops with a damaged manifest are left out, with a warning: the next run puts them in quarantine and goes on.
    """
    drops = cache(partial(list_whole_drops, store, Layout(task.name)))
    usable = True
    for finding in storage(store, task.name, drops):
        usable = finding.state != "failed"
        yield finding
    if usable:
        yield from hardware(task, store, drops())
        yield from readiness(task, store, drops())
