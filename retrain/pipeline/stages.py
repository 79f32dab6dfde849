"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

Plain functions over records and a store. Each is idempotent: what exists is done, so any of them can be retried, on any
machine, after any crash.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from retrain.config.task import Task
from retrain.errors import DamagedDrop, StoreError, UserError
from retrain.models import factory
from retrain.pipeline import STAGES, next_run, planning
from retrain.pipeline.accounting import make_record
from retrain.pipeline.approval import find_approval, is_waiting, refusal, request_approval
from retrain.pipeline.context import Context
from retrain.pipeline.drift import try_measure_drifts
from retrain.pipeline.evaluate import evaluate_run
from retrain.pipeline.gate import decide
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.train import run_as_leader, train_plan
from retrain.records import Approval, Decision, Evaluation, Plan, Result, RunRecord, Verdict
from retrain.store import champions
from retrain.store.base import Conflict
from retrain.store.champions import Author, ChampionSnapshot

Ended = RunRecord | Approval
"""What a run's stages come to: its record, or the approval that it waits for."""


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


def finish_approval(context: Context, run_id: str) -> Ended:
    """Promote and record a candidate that has its verdict, or whose time is up; return the approval while it waits."""
    plan = context.files(run_id).plan()
    promote(context, plan)
    return record(context, plan)


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


def evaluate(context: Context, plan: Plan) -> Evaluation | None:
    """Evaluate a run's model on the test split, against the champion in force; None if it left no model.

    Once the gate has decided, the evaluation that it decided on stays: of a promotion, that against the one before.
    """
    files = context.files(plan.run_id)
    result = files.result()
    if result is None or result.model_digest is None:
        return None
    seen, found, decision = context.store.champion.read(), files.evaluation(), files.decision()
    opponent, refused = champions.compared_champion(seen, plan.run_id), decision is not None and not decision.promoted
    if found and (refused or _compared_with(found) == opponent):
        return found
    with context.timed(plan.run_id, "evaluate"):
        evaluation = evaluate_run(context, plan, opponent)
    files.write_evaluation(evaluation)
    return evaluation


def _compared_with(evaluation: Evaluation) -> str | None:
    return evaluation.comparison.champion if evaluation.comparison else None


def promote(context: Context, plan: Plan) -> Decision | None:
    """Let the gate decide, and swap the champion.

    None for a run that is no candidate, left no model, or waits for a person's approval.
    """
    files = context.files(plan.run_id)
    if plan.purpose != "retrain":
        return None
    with context.timed(plan.run_id, "promote"):
        decision = files.decision() or _refused_by_person(context, plan) or _decide_and_swap(context, plan)
    if decision:
        files.write_decision(decision)
    return decision


def _refused_by_person(context: Context, plan: Plan) -> Decision | None:
    """Return the refusal of a candidate that was rejected, or not approved in time; it needs no evaluation."""
    approval = find_approval(context.store, plan, context.clock())
    return refusal(approval.verdict) if approval else None


def _decide_and_swap(context: Context, plan: Plan) -> Decision | None:
    """If another candidate is promoted in between, judge this one again, against the new champion."""
    while True:
        seen = context.store.champion.read()
        if champions.was_promoted(seen, plan.run_id):
            return Decision(promoted=True, reasons=())
        evaluation = evaluate(context, plan)
        if evaluation is None:
            return None
        decision = decide(plan.task.gate, evaluation)
        if not decision.promoted:
            return decision
        verdict = None
        if plan.task.gate.approval == "manual":
            verdict = request_approval(context.store, plan, context.clock())
            if verdict is None or verdict.kind != "approved":
                return refusal(verdict)
        with suppress(Conflict):
            _put_in_force(context, seen, plan.run_id, verdict)
            return decision


def _put_in_force(context: Context, seen: ChampionSnapshot, run_id: str, approved: Verdict | None) -> None:
    if approved:
        context.store.champion.swap(seen, run_id, "approved", Author(approved.author, approved.reason))
    else:
        context.store.champion.swap(seen, run_id, "promoted")


def record(context: Context, plan: Plan) -> Ended:
    """Write a run's record into the ledger, or return the approval that it waits for."""
    approval = find_approval(context.store, plan, context.clock())
    return approval if approval and is_waiting(approval) else write_record(context, plan)


def write_record(context: Context, plan: Plan, error: str | None = None) -> RunRecord:
    """Write a run's record into the ledger; the first record written stays.

    A run that failed is charged for the iterations of its last saved state, which no run resumes.
    """
    with context.store.run(plan.run_id).checkpoints() as checkpoints:
        found = context.store.ledger.find(plan.run_id)
        entry = found or _assemble(context, plan, error, lost=checkpoints.iteration())
        entry = context.store.ledger.write(entry)
        checkpoints.clear()
    return entry


def _assemble(context: Context, plan: Plan, error: str | None, lost: int) -> RunRecord:
    """What was promoted is recorded as the champions' history has it.

    A worker that was overtaken may have written its own evaluation over that which decided.
    """
    files = context.files(plan.run_id)
    evaluation, decision = files.evaluation(), files.decision()
    if champions.was_promoted(context.store.champion.read(), plan.run_id):
        evaluation, decision = evaluate(context, plan), decision or Decision(promoted=True, reasons=())
    record = make_record(plan, files.result(), evaluation, decision, error, lost)
    return record.model_copy(update={"stage_seconds": dict(context.stage_seconds[plan.run_id])})


def record_failure(context: Context, plan: Plan, error: str) -> RunRecord:
    """Record that a retraining failed, under the attempt that it had come to; once promoted, it has not failed."""
    plan = next_run.latest_attempt(context.store, plan)
    if champions.was_promoted(context.store.champion.read(), plan.run_id):
        promote(context, plan)
        return write_record(context, plan)
    return write_record(context, plan, error)


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
