"""Every check, in the order in which one would mend what they find."""

from collections.abc import Iterator

from retrain.config import Task
from retrain.doctor.finding import Finding
from retrain.doctor.hardware import hardware
from retrain.doctor.storage import storage
from retrain.layout import Layout
from retrain.store.base import Store


def examine(task: Task, store: Store) -> Iterator[Finding]:
    """Yield findings about this machine and the task's store; those of this machine need the store's drops."""
    usable = True
    for finding in storage(store, Layout(task.name)):
        usable = finding.state != "failed"
        yield finding
    if usable:
        yield from hardware(task, store)
