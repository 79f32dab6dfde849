"""What the processes of a life do, each act in a process of its own that may be killed anywhere and started again."""

import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError

from chaos.breaks import BREAKS
from chaos.place import LAYOUT, Place
from retrain import ledger, registry, stages
from retrain.data.packing import pack
from retrain.data.quarantine import quarantine
from retrain.errors import RunError, StoreError
from retrain.planning import Request
from retrain.records import Plan
from retrain.store import Conflict
from retrain.training.preemption import leave
from retrain.trigger.at_work import Busy, at_work
from retrain.trigger.health import Health
from retrain.trigger.here import Here
from retrain.trigger.inbox import Inbox
from retrain.trigger.intake import take_in
from retrain.trigger.queue import Queue
from retrain.trigger.task_watch import Pace, TaskWatch
from retrain.trigger.watcher import Watcher

NOT_NOW = 2
"""Exit code, as of the command: the store failed or somebody else is at work, and a sentence says so."""
LEASE_SECONDS = 2.0
PACE = Pace(lease=LEASE_SECONDS, attend=0, retry=0.1)


def play(act: Callable[..., None], place: Place, broken: str | None, *arguments: object) -> None:
    """Do an act as the command would: told to leave by SIGTERM, ended by a sentence or, should there be a bug, not."""
    place.settle_in()
    signal.signal(signal.SIGTERM, leave)
    logging.disable()
    if broken:
        BREAKS[broken]()
    try:
        act(place, *arguments)
    except (StoreError, Busy) as error:
        _note(place, "sentences", f"{act.__name__}: {error}\n")
        sys.exit(NOT_NOW)
    except Exception:
        _note(place, "tracebacks", f"{act.__name__}: {traceback.format_exc()}\n")
        sys.exit(1)


def _note(place: Place, file: str, text: str) -> None:
    with Path(place.folder, file).open("a") as notes:
        notes.write(text)


def land(place: Place, drop: str) -> None:
    """Pack a drop and commit it."""
    pack(place.source(drop), place.task(), place.context().store, drop_id=drop)


def retrain(place: Place) -> None:
    """`retrain run`."""
    context = place.context()
    with at_work(context.store, LAYOUT, seconds=LEASE_SECONDS) as ours:
        stages.run(replace(context, store=ours), place.task(), Request())


def carry_out(place: Place, plan: str, start: Barrier | None = None) -> None:
    """Train a plan; with others, wait for them before it is judged and promoted. It holds no lease: swaps must do."""
    context, planned = place.context(), Plan.model_validate_json(plan)
    context.files(planned.run_id).write_plan(planned)
    stages.train(context, planned)
    if start:
        wait(start)
    stages.promote(context, planned)
    stages.record(context, planned)


def wait(start: Barrier) -> None:
    """Go on with the others, or without those whose store failed."""
    with suppress(BrokenBarrierError):
        start.wait(10)


def roll_back(place: Place, start: Barrier) -> None:
    """`retrain rollback`, as soon as there is something to go back to."""
    context = place.context()
    wait(start)
    while True:
        seen = registry.read(context.store, LAYOUT)
        try:
            assert seen.champion
            registry.swap(context.store, LAYOUT, seen, registry.previous(seen.champion), "rolled back")
        except (RunError, Conflict):
            continue
        return


def watch(place: Place, queue: str | None, records: int) -> None:
    """`retrain watch`, until so many runs have ended."""
    task = place.task()
    health = Health([task.name])
    watches = [TaskWatch(task, Here("cpu"), health, PACE)]
    inbox = Inbox(Queue(queue), [task], health) if queue else None
    watcher, store = Watcher(watches, health, poll_seconds=0.2, inbox=inbox), place.context().store
    while len(ledger.read(store, LAYOUT)) < records:
        watcher.once()
        time.sleep(0.05)


def adopt(place: Place, drop: str) -> None:
    """Take in what a producer uploaded without a manifest."""
    if cause := take_in(place.task(), drop):
        quarantine(place.context().store, LAYOUT, drop, cause)
