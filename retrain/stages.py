"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

Plain functions over records and a store. Each is idempotent: what exists is done, so any of them can be retried, on any
machine, after any crash.
"""

from retrain import ledger, planning, registry
from retrain.attempt import attempt
from retrain.config import Task
from retrain.context import Context
from retrain.data.drops import list_drops
from retrain.errors import UserError
from retrain.gate import decide
from retrain.judging import judge
from retrain.observe import metrics
from retrain.planning import History, Measured, Nothing, Request
from retrain.records import Decision, Evaluation, Plan, RunRecord
from retrain.store.base import Conflict


def plan(context: Context, task: Task, request: Request) -> Plan | Nothing:
    """Plan the next run from what is in the store, and keep the plan."""
    planned = preview(context, task, request)
    if isinstance(planned, Plan):
        context.files(planned.run_id).write_plan(planned)
    return planned


def preview(context: Context, task: Task, request: Request) -> Plan | Nothing:
    """Plan the next run and change nothing."""
    committed = list_drops(context.store, context.layout)
    return planning.make_plan(task, committed, history(context), request)


def history(context: Context) -> History:
    """Read what has been done: the ledger, the champion's plan, and the last scratch run."""
    records = ledger.read(context.store, context.layout)
    champion = registry.read(context.store, context.layout).run_id
    scratch = [record for record in records if ledger.is_baseline(record)]
    return History(
        records={record.run_id: record for record in records},
        champion=context.files(champion).plan() if champion else None,
        baseline=_measured(context, scratch[-1]) if scratch else None,
    )


def _measured(context: Context, record: RunRecord) -> Measured | None:
    files = context.files(record.run_id)
    result = files.result()
    return Measured(record, result, files.curve()) if result else None


def train(context: Context, plan: Plan) -> Plan:
    """Train a plan and, while it ends below its target, what it escalates to; return the last attempt's plan."""
    while attempt(context, plan).outcome == "missed" and (following := planning.escalate(plan)):
        record(context, plan)
        context.files(following.run_id).write_plan(following)
        plan = following
    return plan


def evaluate(context: Context, plan: Plan) -> Evaluation | None:
    """Evaluate a run's model on the test split, against the champion in force; None if it left no model."""
    files = context.files(plan.run_id)
    result = files.result()
    if result is None or result.model_digest is None:
        return None
    champion = registry.read(context.store, context.layout).run_id
    found = files.evaluation()
    if found and champion in (plan.run_id, _compared_with(found)):
        return found
    evaluation = judge(context, plan, champion)
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
        seen = registry.read(context.store, context.layout)
        if registry.was_promoted(seen, plan.run_id):
            return Decision(promoted=True, reasons=())
        evaluation = evaluate(context, plan)
        if evaluation is None:
            return None
        decision = decide(plan.task.gate, evaluation)
        if not decision.promoted:
            return decision
        if _compared_with(evaluation) == seen.run_id:
            try:
                registry.swap(context.store, context.layout, seen, plan.run_id, "promoted")
            except Conflict:
                continue
            return decision


def record(context: Context, plan: Plan, error: str | None = None) -> RunRecord:
    """Write a run's record into the ledger and its metrics beside it; the first record written stays."""
    files = context.files(plan.run_id)
    entry = ledger.assemble(plan, files.result(), files.evaluation(), files.decision(), error)
    entry = ledger.write(context.store, context.layout, entry)
    context.store.write(context.layout.metrics(plan.run_id), metrics.render([entry]))
    return entry


def record_failure(context: Context, plan: Plan, error: str) -> RunRecord:
    """Record that a retraining failed, under the attempt that it had come to."""
    while ledger.find(context.store, context.layout, plan.run_id) and (following := planning.escalate(plan)):
        plan = following
    return record(context, plan, error)


def run(context: Context, task: Task, request: Request) -> RunRecord | Nothing:
    """Do all stages in this process: retrain on whatever has landed."""
    planned = plan(context, task, request)
    if isinstance(planned, Nothing):
        return planned
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
