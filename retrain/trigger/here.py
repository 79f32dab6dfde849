"""Runs in the watcher's own process: what a laptop needs."""

import logging

from retrain.config import Task
from retrain.data.quarantine import set_aside
from retrain.errors import DamagedDrop, StoreError, UserError
from retrain.records import Plan
from retrain.store.base import Store
from retrain.trigger.claims import release

log = logging.getLogger("retrain")


class Here:
    """Does each run to its end before it returns; what was begun before is taken up where it was."""

    def __init__(self, device: str) -> None:
        self._device = device

    def ensure(self, task: Task, plan: Plan, store: Store) -> bool:
        """Do the run. Raises `StoreError` if it is to be tried again; any other error ends it, with a record."""
        from retrain import stages  # brings torch, which watchers of a cluster do without
        from retrain.machine import make_context

        context = make_context(store, task, self._device)
        try:
            ended = stages.carry_out(context, plan)
        except StoreError:
            raise
        except UserError as error:
            if isinstance(error, DamagedDrop):
                set_aside(store, context.layout, error)
                release(store, context.layout, plan)
            ended = stages.record_failure(context, plan, str(error))
        log.info("%s: %s %s", task.name, ended.run_id, ended.ending)
        return True
