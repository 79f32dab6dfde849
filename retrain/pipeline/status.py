"""The status of a task: champion, baseline, waiting drops and savings."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from retrain.config.automation import Trigger
from retrain.config.loading import task_argument
from retrain.config.task import Task
from retrain.data.dataset import describe_removed
from retrain.errors import DamagedDrop, StoreError, UserError
from retrain.pipeline import next_run
from retrain.pipeline.approval import is_waiting
from retrain.pipeline.planning import NoRunNeeded, Request, learnt_from
from retrain.pipeline.unfinished import describe_unfinished
from retrain.records import Approval, Drop, Plan, Record, RunRecord, Savings
from retrain.records.base import digest
from retrain.records.ledger import is_baseline, total_savings
from retrain.store.drops import late_files
from retrain.store.task_store import TaskStore
from retrain.utils.clock import Clock, utc_now

NEWEST = 3
"""Number of amendments that the status describes."""


class Status(Record):
    """The status of one task. `waiting` are committed drops that the champion was not trained on.

    `quarantined` has the cause for each quarantined drop. `late` has a sentence for each drop whose files came or
    changed after its commit. `awaiting` are the candidates that await approval, oldest first. `trigger` says whether
    the waiting drops or amendments start a run now, and why. It is None if nothing waits, or if the task sets no
    `trigger` and a run would start now.
    """

    task: str
    store: str
    champion: RunRecord | None
    champion_since: datetime | None
    baseline: RunRecord | None
    waiting: tuple[str, ...]
    quarantined: dict[str, str]
    late: tuple[str, ...] = ()
    amendments: int = 0
    """Number of amendments of committed drops."""
    newest_amendments: tuple[str, ...] = ()
    """A sentence for each of the newest amendments, the newest first."""
    is_amended: bool = False
    """Whether drops of the champion were amended since its run was planned. The next run uses the amendments."""
    erasures: tuple[str, ...] = ()
    """A sentence for each erasure that is incomplete or affects the champion."""
    removed: tuple[str, ...] = ()
    """A sentence for each drop of the champion that is missing in the store. No run can be planned without it."""
    uploads: tuple[str, ...] = ()
    """A sentence for each upload that is not committed yet, with the step that it lacks."""
    awaiting: tuple[Approval, ...] = ()
    unfinished: tuple[str, ...] = ()
    """A sentence for each unfinished run, with the way to continue it or to remove its files."""
    trigger: str | None = None
    drift: tuple[str, ...] = ()
    """A sentence for each waiting drop with measured drift: whether its images differ from the champion's held-out
    images."""
    runs: int
    trials: int = 0
    """Number of runs that were trials. Only a person can promote a trial."""
    savings: Savings

    def has_comparable_baseline(self) -> bool:
        """Return whether scratch was trained on the champion's drops."""
        champion, baseline = self.champion, self.baseline
        return bool(
            champion
            and baseline
            and champion.dataset_digest == baseline.dataset_digest
            and champion.metric == baseline.metric
        )

    def better_baseline(self) -> str | None:
        """Return advice if scratch's final score on val is higher than the champion's, on the same drops. Else None."""
        champion, baseline = self.champion, self.baseline
        if not self.has_comparable_baseline() or not (champion and champion.result and baseline and baseline.result):
            return None
        points = 100 * (baseline.result.final_score - champion.result.final_score)
        if points <= 0:
            return None
        promote = f"`retrain promote {baseline.run_id} --task {task_argument(self.task)}`"
        return f"{points:.1f} points higher than the champion's on the same images: {promote} replaces the champion"


def read_status(task: Task, store: TaskStore, clock: Clock = utc_now) -> Status:
    """Read a task's status from its store."""
    return make_status(task, store, store.ledger.read(), clock)


def make_status(task: Task, store: TaskStore, records: Sequence[RunRecord], clock: Clock = utc_now) -> Status:
    """Return a task's status, given the records of its ledger, oldest first."""
    pointer = store.champion.read().champion
    champion = next((record for record in records if pointer and record.run_id == pointer.run_id), None)
    known = champion.drops if champion else ()
    drops, found, amendments = store.drops.readable(), store.drops.committed(), store.drops.amendments.read()
    waiting = tuple(drop.id for drop in drops if drop.id not in known)
    amending = {one.upload for one in amendments}
    removed = [one for one in known if one not in {*found.usable, *found.quarantined}]
    awaiting = store.approvals.unfinished()
    ended = {*(record.run_id for record in records), *(approval.run_id for approval in awaiting)}
    started = set(store.objects.folders(store.keys.runs)) - ended
    is_amended = champion is not None and _is_amended(champion, drops)
    tried = [record for record in records if {*waiting} <= {*record.drops}]
    may_be_done = any(record.decision or record.outcome == "diverged" for record in tried)
    may_wait = (bool(waiting) or is_amended) and (task.trigger != Trigger() or may_be_done)
    planned = _plan_next(store, task, clock()) if (may_wait or started) and not removed else None
    drifts = store.drifts.of(pointer.run_id if pointer else None) if waiting else {}
    return Status(
        task=task.name,
        store=store.url,
        champion=champion,
        champion_since=pointer.history[-1].at if pointer else None,
        baseline=next((record for record in reversed(records) if is_baseline(record)), None),
        waiting=waiting,
        trigger=_describe_trigger(planned, task) if may_wait and planned else None,
        late=tuple(filter(None, (late_files(drop, found) for drop in drops))),
        uploads=tuple(f"{drop}: {lacks}" for drop, lacks in found.uncommitted.items() if drop not in amending),
        amendments=len(amendments),
        newest_amendments=tuple(str(one) for one in reversed(amendments[-NEWEST:])),
        is_amended=is_amended,
        erasures=tuple(_describe_erasures(task, store, pointer.run_id if pointer else None, records)),
        quarantined=store.drops.quarantine_causes(),
        removed=tuple(map(describe_removed, removed)),
        awaiting=tuple(filter(is_waiting, awaiting)),
        unfinished=tuple(describe_unfinished(task, store, planned, started, clock())) if started else (),
        drift=tuple(str(drift) for drop, drift in sorted(drifts.items()) if drop in waiting),
        runs=len(records),
        trials=sum(record.purpose == "trial" for record in records),
        savings=total_savings(records),
    )


def _is_amended(champion: RunRecord, drops: Sequence[Drop]) -> bool:
    """Return whether all of the champion's drops exist, and one of them was amended since the champion was trained."""
    digests = {drop.id: drop.digest for drop in drops}
    if not digests.keys() >= set(champion.drops):
        return False
    return digest([digests[drop_id] for drop_id in champion.drops]) != champion.dataset_digest


def _describe_erasures(
    task: Task, store: TaskStore, champion: str | None, records: Sequence[RunRecord]
) -> Iterator[str]:
    by_id = {record.run_id: record for record in records}
    for erasure in store.erasures.read():
        if erasure.completed_at is None:
            command = f"retrain drop erase --task {task_argument(task.name)}"
            yield f"erasure {erasure.sequence} is not complete: run `{command}`"
        if learnt_from(champion, erasure.trained, by_id):
            then = "is from scratch" if task.erase.policy == "retrain" else "may continue from it (erase.policy: keep)"
            is_trained = any(run.run_id == champion and run.saw == "trained on them" for run in erasure.runs)
            use = "was trained" if is_trained else "continues from a run that was trained"
            yield f"champion {champion} {use} on samples of erasure {erasure.sequence}; the next run {then}"


def _plan_next(store: TaskStore, task: Task, now: datetime) -> Plan | NoRunNeeded | UserError:
    """Plan the next run, or return why it cannot be planned. Raises `StoreError`."""
    try:
        return next_run.plan_next_run(store, task, Request(), now)
    except StoreError:
        raise
    except UserError as error:
        return error


def _describe_trigger(planned: Plan | NoRunNeeded | UserError, task: Task) -> str | None:
    """Return whether a run on the waiting drops starts now, and why. None if it starts now and there is no trigger."""
    if isinstance(planned, DamagedDrop):
        return f"the next run will quarantine drop {planned.drop}: {planned}"
    if isinstance(planned, UserError):
        return f"no run can be planned: {planned}"
    if isinstance(planned, NoRunNeeded):
        return planned.reason
    return None if task.trigger == Trigger() else f"starts now: {planned.reason}"
