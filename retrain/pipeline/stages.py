"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

Plain functions over records and a store. Each is idempotent: what exists is done, so any of them can be retried, on any
machine, after any crash.
"""

from collections.abc import Callable
from dataclasses import replace

from retrain.config.task import Task
from retrain.errors import DamagedDrop, StoreError, UserError
from retrain.models import factory
from retrain.pipeline import STAGES, next_run, planning
from retrain.pipeline.context import Context
from retrain.pipeline.drift import try_measure_drifts
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.recording import (
    Ended,
    evaluate,
    finish_approval,
    promote,
    record,
    record_failure,
    write_record,
)
from retrain.pipeline.train import run_as_leader, train_plan
from retrain.records import Plan, Result

__all__ = ["Ended", "evaluate", "finish_approval", "promote", "record", "record_failure", "write_record"]


def plan(context: Context, task: Task, request: Request) -> Plan | NoRunNeeded:
    """Plan the next run from what is in the store, and keep the plan.

    Raises `ModelError`, before anything of it is kept, if its network cannot be.
    """
    _record_champion(context)
    for approval in context.store.approvals.unfinished():
        finish_approval(context, approval.run_id)
    if request == Request():
        try_measure_drifts(context, task)
    planned = next_run.plan_and_quarantine(context.store, task, request, context.clock())
    if isinstance(planned, Plan):
        factory.check_network(planned.task.model, len(planned.dataset.classes), planned.task.data.image_size)
        next_run.keep_plan(context.store, planned)
    return planned


def _record_champion(context: Context) -> None:
    """Finish the champion's run, should its process have gone between promotion and record."""
    champion = context.store.champion.read().run_id
    if champion and context.store.ledger.find(champion) is None:
        promoted = context.files(champion).plan()
        promote(context, promoted)
        write_record(context, promoted)


def train(context: Context, plan: Plan) -> Plan:
    """Train a plan and, while it ends below its target, what it escalates to; return the last attempt's plan."""
    while _train_timed(context, plan).outcome == "missed" and (following := planning.escalate(plan)):
        context.files(following.run_id).write_plan(following)  # before the record that names it
        write_record(context, plan)
        plan = following
    return plan


def _train_timed(context: Context, plan: Plan) -> Result:
    with context.timed(plan.run_id, "train"):
        return train_plan(context, plan)


BY_NAME: dict[str, Callable[[Context, Plan], object]] = {
    stage.__name__: stage for stage in (train, evaluate, promote, record)
}


def run_task(context: Context, task: Task, request: Request) -> Ended | NoRunNeeded:
    """Do all stages in this process: retrain on what has landed, without the drops that prove damaged."""
    while isinstance(planned := plan(context, task, request), Plan):
        try:
            return run_plan(context, planned)
        except DamagedDrop:  # which is in quarantine by now
            if context.ranks.size > 1:  # the other ranks have given up too
                raise
    return planned


def run_locked(context: Context, task: Task, request: Request) -> Ended | NoRunNeeded:
    """Do all stages in this process, and in those that torchrun started with it, while holding the task's lease."""
    with run_as_leader(context), context.store.lock() as ours:
        return run_task(replace(context, store=ours), task, request)


def run_plan(context: Context, planned: Plan) -> Ended:
    """Do the stages after planning in this process.

    Errors are as `end_with` decides. An unforeseen one is recorded too, since no other process tries again.
    """
    try:
        return run_stages(context, planned)
    except Exception as error:
        if not end_with(context, planned, error) and not isinstance(error, StoreError):
            record_failure(context, planned, error_text(error))
        raise


def run_stages(context: Context, planned: Plan) -> Ended:
    """Do the stages after planning, in their order; a candidate may end with the approval that it waits for."""
    final = train(context, planned)
    for name in STAGES[STAGES.index("train") + 1 :]:
        BY_NAME[name](context, final)
    return record(context, final)


def end_with(context: Context, plan: Plan, error: Exception) -> bool:
    """Decide what an error of a stage means for its run; return whether the run has ended with it.

    This is the only place that decides. A `UserError` would come again, so it ends the run with a record; a damaged
    drop goes into quarantine, and the run's other drops are free for the next plan. After a `StoreError`, or an
    unforeseen error, the run can be tried again as it is.
    """
    if not is_permanent(error):
        return False
    if isinstance(error, DamagedDrop):
        context.store.drops.quarantine_damaged(error)
        context.store.claims().release(plan)
    record_failure(context, plan, error_text(error))
    return True


def is_permanent(error: Exception) -> bool:
    """Return whether an error would come again if the same were tried again."""
    return isinstance(error, UserError) and not isinstance(error, StoreError)


def error_text(error: Exception) -> str:
    """Return an error as records have it: a user's mistake in its own words, anything else with its type."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
