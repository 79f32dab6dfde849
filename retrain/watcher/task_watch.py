"""Watch one task: assign its new drops and corrections to a run, and follow the run to its end.

A correction is an amendment or an erasure. A claim is the record that assigns a drop or a correction to a run.
"""

import logging
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from retrain.config.cron import last_scheduled
from retrain.config.task import Task
from retrain.errors import DamagedDrop, DropError
from retrain.monitoring import names
from retrain.pipeline import next_run
from retrain.pipeline.executor import Executor
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.trigger import TriggerState
from retrain.records import Plan
from retrain.store.claims import CORRECTION
from retrain.store.drops import late_files
from retrain.store.lease import LEASE_SECONDS
from retrain.store.task_store import open_task_store
from retrain.tracking.hook import TrackerUpdates
from retrain.utils.clock import Clock, utc_now
from retrain.utils.parallel import map_ahead
from retrain.utils.processes import WorkerCrashed, run_in_subprocess
from retrain.watcher.health import Health
from retrain.watcher.ingestion import Ingestion
from retrain.watcher.probes import StoreProbes
from retrain.watcher.webhooks import Notifier

log = logging.getLogger("retrain")


class Pace(NamedTuple):
    """Intervals of the watch, in seconds. Tests shorten them."""

    lease: float = LEASE_SECONDS
    """Duration of the lease without a heartbeat."""
    check: float = 300.0
    """Time between checks of a run in flight. A cancelled run writes no record, so only a check notices its end."""
    retry: float = 20.0
    """Time between attempts to start a run after a failure."""


DEFAULT_PACE = Pace()
MANY = 0.1
"""If at most this share of a task's drops is new, the new drops are read one by one, with three requests per drop.
Otherwise, all objects of the task's drops are listed, with 1,000 objects per request."""
DRIFT_SECONDS = 3600.0
"""Seconds that measuring the drift of the waiting drops may take."""


def measure_drifts(task: Task) -> None:
    """Measure the drift of a task's waiting drops. This runs in a subprocess, because it may crash and needs torch."""
    from retrain.pipeline.drift import measure_task

    measure_task(task)


class TaskWatch:
    """Watches one task. `check_drops` and `advance` can be interrupted. Any watcher can then repeat them."""

    def __init__(
        self,
        task: Task,
        executor: Executor,
        health: Health,
        pace: Pace = DEFAULT_PACE,
        clock: Clock = utc_now,
        cache_dir: Path | None = None,
        probes: StoreProbes | None = None,
    ) -> None:
        """Prepare the watch. `cache_dir` is the folder of decoded drops, or None if no run trains on this machine.

        With `probes`, the watch does no work until its store has passed them.
        """
        self.task = task
        self.store = open_task_store(task)
        self._executor, self._health, self._probes = executor, health, probes
        self._pace, self._clock = pace, clock
        self._next_check: dict[str, float] = {}
        self._claims = self.store.claims()
        self._notifier = Notifier(task, self.store, clock)
        self._tracker = TrackerUpdates(task, self.store, clock)
        self._ingestion = Ingestion(task, self.store, health, pace.lease, cache_dir)
        self._waiting: dict[str, datetime] = {}
        self._corrections: dict[str, datetime] = {}
        self._covered: set[str] = set()
        self._deferred_until: datetime | None = None
        self._measured: set[tuple[str | None, str]] = set()
        self._find_quarantined = True

    @property
    def oldest(self) -> datetime | None:
        """Return the time of the oldest drop or correction that waits for a run, or None if none waits."""
        return min([*self._waiting.values(), *self._corrections.values()], default=None)

    def require_conditional_writes(self) -> None:
        """Raise `StoreError` unless the store has been found to support conditional writes."""
        if self._probes:
            self._probes.require(self.task, self.store)

    def check_drops(self, drops: Iterable[str] | None = None) -> None:
        """Validate the drops whose uploads have ended, and record which drops wait for a run.

        `drops` limits the check to the drops with these ids. Raises `TaskLocked` if the only problem is that another
        watcher is validating a drop. The caller must then check again, because that watcher may die. Raises another
        `UserError` for any other problem.
        """
        if drops is not None and not (drops := set(drops)):
            return  # most turns; `advance` lists the claims
        self.require_conditional_writes()
        self._find_quarantined = True
        self._claims.refresh()
        found = list(self.store.objects.folders(self.store.keys.drops) if drops is None else drops)
        unknown = [drop for drop in found if self._is_open(drop) and drop not in self._waiting]
        if drops is not None:
            self._log_late_files(drops - set(unknown))
        if drops is None and len(unknown) > MANY * len(found):
            states = self.store.drops.scan().only(unknown)
        else:
            states = self.store.drops.scan(unknown)
        for drop in sorted(states.amended.intersection(drops or ())):
            log.warning(
                "%s: upload %s has already become %s, so its files are not read again: upload new files as a drop with "
                "another id",
                self.task.name,
                drop,
                self.store.drops.amendments.of_upload(drop),
            )
        problem = self._ingestion.validate(states)
        self._add_waiting(states.waiting)
        self._add_corrections()
        if problem:
            raise problem

    def advance(self) -> None:
        """Start a run for the waiting drops if no run is active. Restart an active run that has stopped.

        Raises `UserError` if this fails. The caller may try again.
        """
        self.require_conditional_writes()
        self._claims.refresh()
        self._waiting, self._corrections = self._only_open(self._waiting), self._only_open(self._corrections)
        if self._is_due() and not self._claims.in_flight():
            self._claim()
        in_flight = self._claims.in_flight()
        self._health.set_in_flight(self.task.name, len(in_flight))
        self._health.set_oldest_waiting(self.task.name, self.oldest)  # before a run that trains in this process
        if any(self._needs_check(plan) for plan in in_flight):
            self._check_runs()

    def notify(self) -> None:
        """Deliver unconfirmed events to the task's webhooks and trackers.

        A failure of one webhook or tracker does not delay the others. Quarantined drops are looked for after each check
        of the drops only, because that takes a request for every 1,000 objects.
        """
        deliveries = self._notifier.notify(find_quarantined=self._find_quarantined)
        self._find_quarantined = False
        self._health.set_failing_webhooks(self.task.name, sum(one.problem is not None for one in deliveries))
        self._health.heartbeat(working=True)  # the first export of a long ledger may take an hour
        self._tracker.follow()

    def _needs_check(self, plan: Plan) -> bool:
        return time.monotonic() >= self._next_check.get(plan.run_id, 0.0)

    def _schedule_check(self, plan: Plan, pause: float) -> None:
        self._next_check[plan.run_id] = time.monotonic() + pause

    def _check_runs(self) -> None:
        """Ensure that the active runs are still running, unless another watcher is doing so."""
        with self.store.try_lease(self._pace.lease) as lease:
            if lease is None:
                return
            for plan in self._claims.in_flight():
                self._schedule_check(plan, self._pace.retry)
                if self._claims.claim(plan):
                    new = self._executor.ensure(self.task, plan, self.store.guarded(lease))
                    self._schedule_check(plan, self._pace.check)
                    self._health.count(names.WATCHER_SUBMISSIONS, self.task.name, int(new))

    def _add_waiting(self, drops: set[str]) -> None:
        """Add drops that wait to be claimed, with their commit times."""
        self._waiting = self._only_open(self._waiting)
        new = sorted(drops)
        for drop, since in zip(new, map_ahead(self._committed_at, new), strict=True):
            if isinstance(since, datetime):
                self._waiting[drop] = since
                self._deferred_until = None
            else:
                self._ingestion.quarantine(self.store, drop, str(since))

    def _add_corrections(self) -> None:
        """Record the newest amendment and erasure that no run has claimed.

        Record neither of them while an erasure is incomplete.
        """
        amendment, erasure = self.store.drops.amendments.newest(), self.store.erasures.newest()
        found: dict[str, datetime] = {}
        if amendment:
            found[f"{CORRECTION}amendment-{amendment.sequence:06d}"] = amendment.at
        if erasure and erasure.completed_at and self.task.erase.policy == "retrain":
            found[f"{CORRECTION}erasure-{erasure.sequence:06d}"] = erasure.completed_at
        if erasure and erasure.completed_at is None:
            found.clear()
        before = self._corrections.keys()
        self._corrections = self._only_open(found)
        if self._corrections.keys() - before:
            self._deferred_until = None

    def _committed_at(self, drop: str) -> datetime | DropError:
        """Return the time at which a drop was committed, or the error in its manifest.

        A drop from a machine whose clock is ahead counts as committed now. Otherwise it would wait for a scheduled time
        after the wrong one.
        """
        try:
            return min(self.store.drops.read_manifest(drop).committed_at, self._clock())
        except DropError as error:
            return error

    def _log_late_files(self, drops: set[str]) -> None:
        """Log a warning for each of these drops whose files were added or changed after its commit."""
        if drops:
            committed = self.store.drops.committed(drops)
            for drop in self.store.drops.read_many(committed.usable):
                if late := late_files(drop, committed):
                    log.warning("%s: %s", self.task.name, late)

    def _is_open(self, drop: str) -> bool:
        """Return whether a drop, or a correction, may still need a run."""
        return drop not in self._covered and not self._claims.claimed(drop)

    def _only_open(self, waiting: dict[str, datetime]) -> dict[str, datetime]:
        """Return those of these drops or corrections that may still need a run."""
        return {name: since for name, since in waiting.items() if self._is_open(name)}

    def _is_due(self) -> bool:
        """Return whether a drop or correction waits for a run, and a scheduled time has passed since it arrived.

        That time may have passed while no watcher was running. A trigger that postponed the run is evaluated again when
        a drop lands, and at the latest after `Pace.check` seconds.
        """
        now = self._clock()
        if self.oldest is None or (self._deferred_until and now < self._deferred_until):
            return False
        return self.task.schedule is None or self.oldest <= last_scheduled(self.task.schedule, now)

    def _claim(self) -> None:
        """Plan a run and claim the waiting drops for it, or postpone the run, or record that none is needed."""
        self._measure_drift()
        try:
            planned = next_run.plan_next_run(self.store, self.task, Request(), self._clock())
        except DamagedDrop as damaged:  # the next turn plans without it
            self._ingestion.quarantine(self.store, damaged.drop, str(damaged))
            self._waiting.pop(damaged.drop, None)
            return
        self._health.set_deferred(self.task.name, planned.deferred if isinstance(planned, NoRunNeeded) else None)
        if isinstance(planned, Plan):
            next_run.keep_plan(self.store, planned)
            if self._claims.claim(planned, self._corrections):
                log.info("%s: %s: %s", self.task.name, planned.run_id, planned.reason)
                self._forget_waiting()
        elif planned.deferred:
            self._defer(planned.deferred)
        else:
            log.info("%s: nothing to do: %s", self.task.name, planned.reason)
            self._covered |= self._waiting.keys() | self._corrections.keys()
            self._forget_waiting()

    def _forget_waiting(self) -> None:
        """Forget the waiting drops and corrections, because a run has claimed them or no run is needed."""
        self._waiting.clear()
        self._corrections.clear()

    def _measure_drift(self) -> None:
        """Measure the drift of the waiting drops once for each champion, if the trigger requires it."""
        champion = self.store.champion.read().run_id
        new = {(champion, drop) for drop in self._waiting} - self._measured
        if self.task.trigger.drift == "ignore" or champion is None or not new:
            return
        self._measured |= new
        try:
            run_in_subprocess("measuring the drift", DRIFT_SECONDS, measure_drifts, self.task)
        except (WorkerCrashed, ImportError) as problem:
            log.warning("%s: the drift of the waiting drops is not measured: %s", self.task.name, problem)

    def _defer(self, state: TriggerState) -> None:
        """Postpone the run. The waiting drops and corrections keep waiting."""
        if self._deferred_until is None:
            log.info("%s: %s", self.task.name, state.reason)
        soon = self._clock() + timedelta(seconds=self._pace.check)
        self._deferred_until = min(state.until or soon, soon)
