"""Plan the next run of a task from its store.

This file imports no torch, because planning and submitting must need little memory.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import islice

from retrain.config.loading import task_argument
from retrain.config.task import Task
from retrain.data.dataset import amended_drops
from retrain.errors import DamagedDrop
from retrain.models.pretrained import read_pretrained, resolve_task
from retrain.pipeline import planning
from retrain.pipeline.planning import History, NoRunNeeded, Request
from retrain.pipeline.targets import ScratchRun
from retrain.pipeline.trigger import Waiting, evaluate_trigger
from retrain.records import Drift, Drop, Plan, RunRecord
from retrain.records.ledger import is_baseline
from retrain.store.drops import CommittedDrops, late_files
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.utils.extras import has_torch
from retrain.utils.text import name_some, pluralize

log = logging.getLogger("retrain")

SCRATCH_RUNS = 10
"""Number of newest scratch runs from which scratch's iterations are estimated. Their plans and curves are read."""


def plan_next_run(store: TaskStore, task: Task, request: Request, now: datetime | None = None) -> Plan | NoRunNeeded:
    """Plan the next run without writing anything. The task's trigger may postpone it.

    `resolve_task` first applies the image size, normalization and weights that the network defines. Raises
    `DamagedDrop` for a drop that must be quarantined.
    """
    task, now = resolve_task(task), now or utc_now()
    found = store.drops.committed()
    drops = []
    for drop in store.drops.read_many(found.usable):
        if late := late_files(drop, found):
            log.warning("%s", late)
        drops.append(drop.model_copy(update={"shards": ()}))  # to save memory, because there are many shards
    past = history(store, task, now)._replace(quarantined=found.quarantined)
    _check_champion_drops(store, drops, past)
    planned = planning.make_plan(task, drops, past, request)
    if isinstance(planned, NoRunNeeded):
        reason = planned.reason + _describe_quarantined(found.quarantined) + _describe_uploads(store, found)
        return planned._replace(reason=reason)
    drifted = _drifted_drops(store, planned, past.champion)
    planned = planned.model_copy(update={"warnings": (*planned.warnings, *map(str, drifted))})
    return _apply_trigger(store, planned, drops, past, drifted, now) if request == Request() else planned


def _describe_quarantined(drops: Collection[str]) -> str:
    """Return a text to append to the reason why there is no run: the drops in quarantine might be the expected ones."""
    named = f"{pluralize(len(drops), 'drop')} in quarantine: {name_some(drops)}"
    return f"; no run uses the {named}; `retrain status` prints the causes" if drops else ""


def _describe_uploads(store: TaskStore, found: CommittedDrops) -> str:
    """Return a text to append to the reason why there is no run: an upload might be the expected drop."""
    if not found.uncommitted:
        return ""
    uploads = found.uncommitted.keys() - {one.upload for one in store.drops.amendments.read()}
    named = f"{pluralize(len(uploads), 'upload')} not committed yet: {name_some(uploads)}"
    return f"; {named}; `retrain status` says what each lacks" if uploads else ""


def _drifted_drops(store: TaskStore, plan: Plan, champion: Plan | None) -> list[Drift]:
    """Return the plan's new drops that have drifted: their images differ from the champion's held-out images."""
    measured = store.drifts.of(champion.run_id if champion else None)
    new = [ref.id for ref in plan.dataset.drops[plan.known :]]
    return [measured[drop] for drop in new if drop in measured and measured[drop].has_drifted]


def _apply_trigger(
    store: TaskStore, plan: Plan, drops: Sequence[Drop], past: History, drifted: Sequence[Drift], now: datetime
) -> Plan | NoRunNeeded:
    """Return the plan with the trigger's reason, or the reason why it is postponed. A started run is not postponed."""
    records = list(past.records.values())
    saved = planning.saved_shares(plan.dataset, records)
    new = {ref.id for ref in plan.dataset.drops[plan.known :]}
    waiting = Waiting(
        landed=sorted(drop.committed_at for drop in drops if drop.id in new),
        corrected=_correction_times(store, plan, past),
        drifted=sorted(drift.drop for drift in drifted),
        must_unlearn=planning.must_unlearn(plan.task, past),
    )
    state = evaluate_trigger(plan.task.trigger, plan, waiting, records, saved, now)
    if not state.reason or store.run(plan.run_id).has_plan():
        return plan
    if state.unmet:
        return NoRunNeeded(state.reason, state)
    return plan.model_copy(update={"reason": f"{plan.reason}; {state.reason}"})


def _correction_times(store: TaskStore, plan: Plan, past: History) -> list[datetime]:
    """Return the times of the corrections that the champion was not trained with, oldest first.

    An amendment that was made after the run was planned may be older than the start of the run. If there is no newer
    one, the start of the run is returned.
    """
    champion = past.champion
    if champion is None or not (amended := amended_drops(plan.dataset, champion.dataset)):
        return []
    trained_at = past.records[champion.run_id].started_at
    changed = [one.at for one in store.drops.amendments.read() if {change.drop for change in one.changes} & {*amended}]
    return [at for at in changed if at > trained_at] or [trained_at]


def plan_and_quarantine(
    store: TaskStore, task: Task, request: Request, now: datetime | None = None
) -> Plan | NoRunNeeded:
    """Plan the next run, and quarantine damaged drops."""
    while True:
        try:
            return plan_next_run(store, task, request, now)
        except DamagedDrop as damaged:
            store.drops.quarantine_damaged(damaged)


def latest_attempt(store: TaskStore, plan: Plan) -> Plan:
    """Return the plan of the last run of a retraining: the last escalation after `plan`, or `plan` if there is none."""
    while (entry := store.ledger.find(plan.run_id)) and entry.followed_by:
        plan = store.run(entry.followed_by).plan()
    return plan


def _check_champion_drops(store: TaskStore, drops: Iterable[Drop], past: History) -> None:
    """Raise `DamagedDrop` if the champion's drops have changed other than by amendments."""
    digests = {drop.id: drop.digest for drop in drops}
    refs = past.champion.dataset.drops if past.champion else ()
    changed = [ref for ref in refs if digests.get(ref.id, ref.digest) != ref.digest]
    for ref, version in zip(changed, store.drops.read_versions(changed), strict=True):
        if version.digest != ref.digest:
            raise DamagedDrop(
                ref.id,
                f"drop {ref.id} has changed since the champion was trained on it: the digest of its manifest differs "
                "from the digest in the champion's plan. Restore the manifest from a copy of the store",
            )


def keep_plan(store: TaskStore, plan: Plan) -> None:
    """Write a plan to the store.

    First write the pretrained weights that the plan uses, because pods may not have the file of the weights.
    """
    read_pretrained(store, plan.task, keep=True)
    store.run(plan.run_id).write_plan(plan)


def check_model(plan: Plan, store: TaskStore, elsewhere: bool) -> None:
    """Check that a plan's network can be built and accepts its pretrained weights. Raises `ModelError`.

    If the run is executed `elsewhere`, its container image may have packages that this machine lacks. A factory that is
    not installed on this machine is then not checked. Without torch on this machine, nothing is checked.
    """
    if elsewhere and not has_torch():
        return
    from retrain.models import factory

    if factory.is_installed(plan.task.model) or not elsewhere:
        pretrained = read_pretrained(store, plan.task)
        factory.check_network(plan.task.model, len(plan.dataset.classes), plan.task.data.image_size, pretrained)


def history(store: TaskStore, task: Task, now: datetime) -> History:
    """Read the task's history: the ledger, the champion's plan, and the newest comparable scratch runs."""
    unfinished = store.approvals.unfinished()
    records = store.ledger.read()
    champion = store.champion.read().run_id
    measured = (read_scratch_run(store, task, record) for record in reversed(records) if is_baseline(record))
    return History(
        records={record.run_id: record for record in records},
        champion=store.run(champion).plan() if champion else None,
        scratch_runs=tuple(islice(filter(None, measured), SCRATCH_RUNS)),
        trained_on_erased=frozenset().union(*(erasure.trained for erasure in store.erasures.read())),
        awaiting={
            store.run(one.run_id).plan().dataset.digest: one.describe(task_argument(task.name), now)
            for one in unfinished
        },
    )


def read_scratch_run(store: TaskStore, task: Task, record: RunRecord) -> ScratchRun | None:
    """Return a scratch run for targets. None if it has no result or is not comparable with the task (`equal_work`)."""
    files = store.run(record.run_id)
    if record.result is None or not planning.equal_work(task, (plan := files.plan()).task):
        return None
    return ScratchRun(record, record.result, files.curve(), plan.dataset)
