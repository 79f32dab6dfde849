"""Clean this machine's cache: remove the files that no dataset needs. Imports no torch.

All tasks of a machine share the cache. It has shards and decoded drops. The files of two groups of drops are needed:
the current drops of the given tasks, decoded in the image size of their task files, and the drops of the tasks'
unfinished runs. All other files, including the files of other tasks, are removed unless they were used recently. If a
run needs a removed file, it makes the file again from the store. A wrong removal therefore costs only time.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from retrain.config.task import Task
from retrain.data.local_cache import CachedFile, decoded_name, find_unused, lock_unused, remove_file
from retrain.errors import DamagedDrop
from retrain.pipeline.retention import find_unfinished_plans
from retrain.records import Drop, Removal, Retention
from retrain.store.task_store import TaskStore
from retrain.utils.text import pluralize

log = logging.getLogger("retrain")


OpenTasks = Sequence[tuple[Task, TaskStore]]
"""Tasks with their stores."""


def plan_removal(folder: Path, tasks: OpenTasks, older_than: timedelta, now: datetime) -> Retention:
    """Return the files of a cache that can be removed now, and change nothing."""
    since = now - older_than
    found = find_unused(folder, (), since)
    if found:  # without such files, the stores need not be read
        needed = _find_needed(tasks, since)
        found = [file for file in found if file.name not in needed]
    return _describe(found, since)


def remove(folder: Path, tasks: OpenTasks, older_than: timedelta, now: datetime) -> Retention:
    """Remove the files of `plan_removal`, and return them. If a process reads the cache, remove nothing.

    A run that starts meanwhile waits until the files are removed. It decodes missing drops again.
    """
    since = now - older_than
    planned = plan_removal(folder, tasks, older_than, now)
    if not planned.removals:
        return planned.model_copy(update={"is_done": True})
    names = set(planned.removals[0].keys)
    with lock_unused(folder) as obstacle:
        if obstacle:
            log.info("%s: nothing is removed from this cache: %s", folder, obstacle)
            return Retention(task=None, removals=(), kept={str(folder): obstacle}, is_done=True)
        unused = [file for file in find_unused(folder, (), since) if str(file.path) in names]
        removed = [file for file in unused if remove_file(file)]
    log.info("%s: removed %s", folder, pluralize(len(removed), "file"))
    return _describe(removed, since).model_copy(update={"is_done": True})


def _find_needed(tasks: OpenTasks, since: datetime) -> set[str]:
    """Return the names of cached files that the next run and the unfinished runs of these tasks may read."""
    names = set[str]()
    for task, store in tasks:
        for drop in store.drops.readable():  # no run can read a damaged drop
            names |= _names(drop, task)
        for plan in find_unfinished_plans(store, since):
            with suppress(DamagedDrop):
                for drop in store.drops.read_versions(plan.dataset.drops):
                    names |= _names(drop, plan.task)
    return names


def _names(drop: Drop, task: Task) -> set[str]:
    return {decoded_name(drop, task.data.frame), *(shard.sha256 for shard in drop.shards)}


def _describe(files: Sequence[CachedFile], since: datetime) -> Retention:
    removal = Removal(
        what="cache",
        why=f"not used since {since:%Y-%m-%d}",
        is_marked=False,
        keys=tuple(str(file.path) for file in files),
        bytes=sum(file.size for file in files),
    )
    return Retention(task=None, removals=(removal,) if files else (), kept={})
