"""Do the actions of a scenario. Each runs in a separate process that may be killed at any moment and restarted."""

import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from support.versions import write_as_a_later_version
from support.writes import Strike, Writes

from chaos.breaks import BREAKS
from chaos.environment import KEYS, Environment
from retrain.data.packing import pack
from retrain.errors import RunError, StoreError
from retrain.pipeline import stages
from retrain.pipeline.executor import InProcessExecutor
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store import Conflict, LocalStore, champions
from retrain.store.locks import TaskLocked
from retrain.store.s3.sqs import SqsQueue
from retrain.store.s3.store import S3Store
from retrain.store.task_store import TaskStore
from retrain.training.preemption import raise_preempted
from retrain.watcher.health import Health
from retrain.watcher.ingestion import validate_drop
from retrain.watcher.queue import EventQueue
from retrain.watcher.task_watch import Pace, TaskWatch
from retrain.watcher.watcher import Watcher

REPEATABLE = 2
"""Exit code of an action that can be repeated, because the store failed or the task is locked."""
LEASE_SECONDS = 2.0
BARRIER_SECONDS = 60.0
"""Seconds after which a racing process continues without the other processes."""
PACE = Pace(lease=LEASE_SECONDS, check=0, retry=0.1)


def perform(
    action: Callable[..., None], environment: Environment, broken: str | None, strike: Strike | None, *arguments: object
) -> None:
    """Do an action. Stop on SIGTERM. Exit with 1 after an unexpected error."""
    environment.set_up_process()
    signal.signal(signal.SIGTERM, raise_preempted)
    faulthandler.register(signal.SIGUSR1, os.open(environment.folder / "hangs", os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    logging.disable()
    if broken:
        BREAKS[broken]()
    writes = Writes(strike)
    writes.watch(LocalStore, S3Store)
    try:
        action(environment, *arguments)
        _append(environment, "writes", f"{action.__name__} {writes.count}\n")
    except (StoreError, TaskLocked) as error:
        _append(environment, "sentences", f"{action.__name__}: {error}\n")
        sys.exit(REPEATABLE)
    except Exception:
        _append(environment, "tracebacks", f"{action.__name__}: {traceback.format_exc()}\n")
        sys.exit(1)
    finally:
        for argument in arguments:
            if isinstance(argument, Barrier):
                argument.abort()  # the processes that wait for this one continue without it


def _append(environment: Environment, file: str, text: str) -> None:
    with Path(environment.folder, file).open("a") as log:
        log.write(text)


def land(environment: Environment, drop: str) -> None:
    """Pack a drop and commit it."""
    pack(environment.source(drop), environment.task(), environment.context().store, drop_id=drop)


def retrain(environment: Environment, changes: Sequence[str] = (), is_later: bool = False) -> None:
    """Run `retrain run` with changed settings, by this version or by a later one."""
    if is_later:
        write_as_a_later_version(LocalStore, S3Store)
    context = environment.context()
    with context.store.lock(seconds=LEASE_SECONDS) as locked:
        stages.run_task(replace(context, store=locked), environment.task(changes=changes), Request())


def train_and_promote(environment: Environment, plan: str, start: Barrier | None = None) -> None:
    """Train a plan and promote it without a lease.

    In a race, all processes read the same champion before any of them replaces it.
    """
    context, planned = environment.context(), Plan.model_validate_json(plan)
    context.files(planned.run_id).write_plan(planned)
    stages.train(context, planned)
    if start:
        hold_first_replace(start, KEYS.champion)
    stages.promote(context, planned)
    stages.record(context, planned)


def hold_first_replace(start: Barrier, key: str) -> None:
    """Let this process replace a key only after all racing processes have read its old value."""
    for store in (LocalStore, S3Store):
        store.replace = _wait_before_first_replace(store.replace, start, key, [])


def _wait_before_first_replace(
    replace: Callable[..., str], start: Barrier, key: str, waited: list[str]
) -> Callable[..., str]:
    def wait_and_replace(store: Any, at: str, *arguments: Any) -> str:
        if at == key and not waited:
            waited.append(at)
            wait(start)
        return replace(store, at, *arguments)

    return wait_and_replace


def wait(start: Barrier) -> None:
    """Wait until all racing processes have reached this point, or until one of them has ended early."""
    try:
        start.wait(BARRIER_SECONDS)
    except BrokenBarrierError:
        return


def roll_back(environment: Environment, start: Barrier | None = None) -> None:
    """Run `retrain rollback` as soon as there is an earlier champion."""
    context = environment.context()
    if start:
        wait(start)
    while True:
        seen = context.store.champion.read()
        try:
            assert seen.champion
            context.store.champion.swap(seen, champions.rollback_target(seen.champion), "rolled back")
        except (RunError, Conflict):
            continue
        return


def watch(environment: Environment, queue: str | None, records: int, drop: str | None = None) -> None:
    """Run `retrain watch` until this number of runs have ended, no run is active, and a run has claimed the drop."""
    task = environment.task()
    health = Health([task.name])
    watches = [TaskWatch(task, InProcessExecutor("cpu"), health, PACE)]
    inbox = EventQueue(SqsQueue(queue), [task], health) if queue else None
    watcher, store = Watcher(watches, health, poll_seconds=0.2, queue=inbox), environment.context().store
    while len(store.ledger.read()) < records or _is_unfinished(store, drop):
        watcher.once()
        time.sleep(0.05)


def _is_unfinished(store: TaskStore, drop: str | None) -> bool:
    """Return whether a claimed run has not ended, or no run has the drop.

    Records do not show this. A run that missed its target has a record before the next run starts. A rejected candidate
    has a record, too.
    """
    claims = store.claims()
    claims.refresh()
    return bool(claims.in_flight()) or (drop is not None and not claims.claimed(drop))


def ingest(environment: Environment, drop: str) -> None:
    """Commit an upload that has no manifest."""
    if cause := validate_drop(environment.task(), drop).cause:
        environment.context().store.drops.quarantine(drop, cause)
