"""Every check, in the order in which one would mend what they find."""

from collections.abc import Iterator
from functools import cache

from retrain.config.task import Task
from retrain.doctor.checks import Finding
from retrain.doctor.machine import check_machine
from retrain.doctor.readiness import check_readiness
from retrain.doctor.storage import check_storage
from retrain.store.task_store import TaskStore


def examine(task: Task, store: TaskStore) -> Iterator[Finding]:
    """Yield findings about the task's store, this machine and the next run; the latter two need the store's drops.

    Drops with a damaged manifest are left out, with a warning: the next run puts them in quarantine and goes on.
    """
    drops = cache(store.drops.readable)
    usable = True
    for finding in check_storage(store, drops):
        usable = finding.state != "failed"
        yield finding
    if usable:
        yield from check_machine(task, store, drops())
        yield from check_readiness(task, store, drops())
