"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

The stages are functions over records and a store. Each is idempotent: it does not compute existing results again.
Therefore any stage can be retried, on any machine, after any crash. Torch is imported only to train, to evaluate, and
to check that a new network can be built.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain.config.task import Task
from retrain.errors import DamagedDrop, StoreError, UserError
from retrain.pipeline import STAGES, next_run, planning
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.record_context import RecordContext
from retrain.pipeline.recording import (
    Ended,
    evaluate,
    finish_approval,
    promote,
    record,
    record_failure,
    write_record,
)
from retrain.records import Plan, Result
from retrain.utils.processes import WorkerCrashed

if TYPE_CHECKING:
    from retrain.pipeline.context import Context

__all__ = ["Ended", "evaluate", "finish_approval", "promote", "record", "record_failure", "write_record"]


def plan(context: RecordContext, task: Task, request: Request) -> Plan | NoRunNeeded:
    """Plan the next run from the store, and write the plan.

    If the network differs from the parent's and cannot be built, this raises `ModelError` before the plan is written.
    """
    _record_champion(context)
    for approval in context.store.approvals.unfinished():
        finish_approval(context, approval.run_id)
    if request == Request() and task.trigger.drift != "ignore":
        from retrain.pipeline.context import with_device
        from retrain.pipeline.drift import try_measure_drifts

        try_measure_drifts(with_device(context), task)
    planned = next_run.plan_and_quarantine(context.store, task, request, context.clock())
    if isinstance(planned, Plan):
        if not _has_parents_network(context, planned):
            next_run.check_model(planned, context.store, elsewhere=False)
        next_run.keep_plan(context.store, planned)
    return planned


def _has_parents_network(context: RecordContext, plan: Plan) -> bool:
    """Return whether the network is the parent's. A parent's network has been trained, so it can be built."""
    return plan.parent is not None and planning.same_network(plan.task, context.files(plan.parent).plan().task)


def _record_champion(context: RecordContext) -> None:
    """Finish the champion's run, in case its process died between promotion and record."""
    champion = context.store.champion.read().run_id
    if champion and context.store.ledger.find(champion) is None:
        promoted = context.files(champion).plan()
        promote(context, promoted)
        write_record(context, promoted)


def train(context: "Context", plan: Plan) -> Plan:
    """Train a plan. While the target is missed, train its escalations. Return the plan of the last run."""
    while _train_timed(context, plan).outcome == "missed" and (following := planning.escalate(plan)):
        context.files(following.run_id).write_plan(following)  # before the record, because the record names this plan
        write_record(context, plan)
        plan = following
    return plan


def _train_timed(context: "Context", plan: Plan) -> Result:
    from retrain.pipeline.train import train_plan

    with context.timed(plan.run_id, "train"):
        return train_plan(context, plan)


BY_NAME: dict[str, Callable[["Context", Plan], object]] = {
    stage.__name__: stage for stage in (train, evaluate, promote, record)
}


def run_task(context: "Context", task: Task, request: Request) -> Ended | NoRunNeeded:
    """Run all stages in this process. If a drop turns out to be damaged, plan again without it."""
    while isinstance(planned := plan(context, task, request), Plan):
        try:
            return run_plan(context, planned)
        except DamagedDrop:  # already quarantined by `end_with`
            if context.ranks.size > 1:  # the other ranks have stopped too
                raise
    return planned


def run_locked(context: "Context", task: Task, request: Request) -> Ended | NoRunNeeded:
    """Run all stages while rank 0 holds the task's lease. The other ranks only train, and then exit."""
    from retrain.pipeline.train import run_as_leader

    with run_as_leader(context), context.store.lock() as locked:
        return run_task(replace(context, store=locked), task, request)


def run_plan(context: "Context", planned: Plan) -> Ended:
    """Run all stages except `plan` in this process.

    An unexpected error, too, ends the run with a record, because no other process retries the run.
    """
    try:
        return run_stages(context, planned)
    except Exception as error:
        if not end_with(context, planned, error) and not isinstance(error, StoreError):
            record_failure(context, planned, error_text(error))
        raise


def run_stages(context: "Context", planned: Plan) -> Ended:
    """Run all stages except `plan`, in their order. Return the record, or the approval that the candidate waits for."""
    final = train(context, planned)
    for name in STAGES[STAGES.index("train") + 1 :]:
        BY_NAME[name](context, final)
    return record(context, final)


def end_with(context: RecordContext, plan: Plan, error: Exception) -> bool:
    """Handle an error of a stage, and return whether it ended the run.

    Only this function decides which errors always end a run. A `UserError` would occur again, so it ends the run with a
    record. A damaged drop is also quarantined, and the next plan can use the run's other drops. After a `StoreError`,
    a killed subprocess or an unexpected error, the run can be retried unchanged.
    """
    if not is_permanent(error):
        return False
    if isinstance(error, DamagedDrop):
        context.store.drops.quarantine_damaged(error)
        context.store.claims().release(plan)
    record_failure(context, plan, error_text(error))
    return True


def is_permanent(error: Exception) -> bool:
    """Return whether an error would occur again in a retry."""
    return isinstance(error, UserError) and not isinstance(error, StoreError | WorkerCrashed)


def error_text(error: Exception) -> str:
    """Return an error as text for a record: the message of a `UserError`, or the type and message of another error."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
