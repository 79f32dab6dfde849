"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

Plain functions over records and a store. Each is idempotent: what exists is done, so any of them can be retried, on any
machine, after any crash.
"""

from contextlib import suppress

from retrain.config.task import Task
from retrain.errors import DamagedDrop, UserError
from retrain.models import factory
from retrain.monitoring import metrics
from retrain.pipeline import next_run, planning
from retrain.pipeline.accounting import make_record
from retrain.pipeline.context import Context
from retrain.pipeline.evaluate import evaluate_run
from retrain.pipeline.gate import decide
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.train import train_plan
from retrain.records import Decision, Evaluation, Plan, RunRecord
from retrain.store import champions, ledger
from retrain.store.base import Conflict
from retrain.store.checkpoints import Checkpoints
from retrain.store.drops import quarantine_damaged


def plan(context: Context, task: Task, request: Request) -> Plan | NoRunNeeded:
    """Plan the next run from what is in the store, and keep the plan.

    Raises `ModelError`, before anything of it is kept, if its network cannot be.
    """
    _record_champion(context)
    planned = next_run.plan_and_quarantine(context.store, context.layout, task, request)
    if isinstance(planned, Plan):
        factory.check_network(planned.task.model, len(planned.dataset.classes), planned.task.data.image_size)
        context.files(planned.run_id).write_plan(planned)
    return planned


def _record_champion(context: Context) -> None:
    """Finish the champion's run, should its process have gone between promotion and record."""
    champion = champions.read(context.store, context.layout).run_id
    if champion and ledger.find(context.store, context.layout, champion) is None:
        promoted = context.files(champion).plan()
        promote(context, promoted)
        record(context, promoted)


def train(context: Context, plan: Plan) -> Plan:
    """Train a plan and, while it ends below its target, what it escalates to; return the last attempt's plan."""
    while train_plan(context, plan).outcome == "missed" and (following := planning.escalate(plan)):
        record(context, plan)
        context.files(following.run_id).write_plan(following)
        plan = following
    return plan


def evaluate(context: Context, plan: Plan) -> Evaluation | None:
    """Evaluate a run's model on the test split, against the champion in force; None if it left no model.

    Once the gate has decided, the evaluation that it decided on stays: of a promotion, that against the one before.
    """
    files = context.files(plan.run_id)
    result = files.result()
    if result is None or result.model_digest is None:
        return None
    seen, found, decision = champions.read(context.store, context.layout), files.evaluation(), files.decision()
    opponent, refused = champions.compared_champion(seen, plan.run_id), decision is not None and not decision.promoted
    if found and (refused or _compared_with(found) == opponent):
        return found
    evaluation = evaluate_run(context, plan, opponent)
    files.write_evaluation(evaluation)
    return evaluation


def _compared_with(evaluation: Evaluation) -> str | None:
    return evaluation.comparison.champion if evaluation.comparison else None


def promote(context: Context, plan: Plan) -> Decision | None:
    """Let the gate decide, and swap the champion; None for a run that is no candidate or left no model."""
    files = context.files(plan.run_id)
    if plan.purpose != "retrain":
        return None
    decision = files.decision() or _decide_and_swap(context, plan)
    if decision:
        files.write_decision(decision)
    return decision


def _decide_and_swap(context: Context, plan: Plan) -> Decision | None:
    """If another candidate is promoted in between, judge this one again, against the new champion."""
    while True:
        seen = champions.read(context.store, context.layout)
        if champions.was_promoted(seen, plan.run_id):
            return Decision(promoted=True, reasons=())
        evaluation = evaluate(context, plan)
        if evaluation is None:
            return None
        decision = decide(plan.task.gate, evaluation)
        if not decision.promoted:
            return decision
        with suppress(Conflict):
            champions.swap(context.store, context.layout, seen, plan.run_id, "promoted")
            return decision


def record(context: Context, plan: Plan, error: str | None = None) -> RunRecord:
    """Write a run's record into the ledger and its metrics beside it; the first record written stays.

    A run that failed is charged for the iterations of its last saved state, which nobody will go on from.
    """
    with Checkpoints(context.store, context.layout, plan.run_id) as checkpoints:
        found = ledger.find(context.store, context.layout, plan.run_id)
        entry = found or _assemble(context, plan, error, lost=checkpoints.iteration())
        context.store.write(context.layout.metrics(plan.run_id), metrics.render([entry]))
        entry = ledger.write(context.store, context.layout, entry)
        checkpoints.clear()
    return entry


def _assemble(context: Context, plan: Plan, error: str | None, lost: int) -> RunRecord:
    """What was promoted is recorded as the champions' history has it.

    A worker that was overtaken may have written its own evaluation over that which decided.
    """
    files = context.files(plan.run_id)
    evaluation, decision = files.evaluation(), files.decision()
    if champions.was_promoted(champions.read(context.store, context.layout), plan.run_id):
        evaluation, decision = evaluate(context, plan), decision or Decision(promoted=True, reasons=())
    return make_record(plan, files.result(), evaluation, decision, error, lost)


def record_failure(context: Context, plan: Plan, error: str) -> RunRecord:
    """Record that a retraining failed, under the attempt that it had come to; once promoted, it has not failed."""
    plan = latest_attempt(context, plan)
    if champions.was_promoted(champions.read(context.store, context.layout), plan.run_id):
        promote(context, plan)
        return record(context, plan)
    return record(context, plan, error)


def latest_attempt(context: Context, plan: Plan) -> Plan:
    """Return the attempt that a retraining has come to: past those that missed their target and escalated."""
    while (entry := ledger.find(context.store, context.layout, plan.run_id)) and entry.outcome == "missed":
        if (following := planning.escalate(plan)) is None:
            break
        plan = following
    return plan


def run_task(context: Context, task: Task, request: Request) -> RunRecord | NoRunNeeded:
    """Do all stages in this process: retrain on whatever has landed, without the drops that prove damaged."""
    while isinstance(planned := plan(context, task, request), Plan):
        try:
            return run_plan(context, planned)
        except DamagedDrop as damaged:
            quarantine_damaged(context.store, context.layout, damaged)
            record_failure(context, planned, str(damaged))
            if context.ranks.size > 1:  # the others have given up too
                raise
    return planned


def run_plan(context: Context, planned: Plan) -> RunRecord:
    """Do the stages after planning in this process."""
    try:
        final = train(context, planned)
        evaluate(context, final)
        promote(context, final)
    except UserError:
        raise
    except Exception as error:
        record_failure(context, planned, f"{type(error).__name__}: {error}")
        raise
    return record(context, final)
