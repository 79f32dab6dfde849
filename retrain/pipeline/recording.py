"""Run the stages after training (evaluate, promote, record), and record runs that failed.

Torch is imported only to evaluate. A run that was evaluated in its pod is not evaluated again. A watcher without torch
can therefore record such a run, and promote it after its approval.
"""

import logging
from contextlib import suppress

from retrain.errors import UserError
from retrain.pipeline import next_run
from retrain.pipeline.accounting import make_record
from retrain.pipeline.approval import find_approval, is_waiting, refusal, request_approval
from retrain.pipeline.gate import decide
from retrain.pipeline.plan_warnings import near_chance_warning
from retrain.pipeline.record_context import RecordContext
from retrain.records import Approval, Decision, Evaluation, Plan, RunRecord, Verdict
from retrain.records.ledger import is_baseline
from retrain.store import champions
from retrain.store.base import Conflict
from retrain.store.champions import Author, ChampionSnapshot
from retrain.utils.extras import has_torch

log = logging.getLogger("retrain")

Ended = RunRecord | Approval
"""The result of these stages: the run's record, or the approval that the run waits for."""


def finish_approval(context: RecordContext, run_id: str) -> Ended:
    """Execute the verdict on a candidate, or refuse the candidate if its time limit for approval has passed.

    Return the run's record, or the approval if there is no verdict yet.
    """
    plan = context.files(run_id).plan()
    promote(context, plan)
    return record(context, plan)


def evaluate(context: RecordContext, plan: Plan) -> Evaluation | None:
    """Compare a run's model with the champion on the test split. Return None if the run has no model.

    The evaluation that the gate used is not computed again. The evaluation of a promoted run compares the run with the
    previous champion.
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
        evaluation = _measure(context, plan, opponent)
    files.write_evaluation(evaluation)
    return evaluation


def _measure(context: RecordContext, plan: Plan, champion: str | None) -> Evaluation:
    """Evaluate a run's model and the champion's model. Raises `UserError` without torch."""
    if not has_torch():
        need = f"compared with champion {champion}" if champion else "evaluated"
        raise UserError(
            f"{plan.run_id} must be {need} on the test split, but torch is not installed: run `retrain run` on a "
            "machine with torch"
        )
    from retrain.pipeline.context import with_device
    from retrain.pipeline.evaluate import evaluate_run

    return evaluate_run(with_device(context), plan, champion)


def _compared_with(evaluation: Evaluation) -> str | None:
    return evaluation.comparison.champion if evaluation.comparison else None


def promote(context: RecordContext, plan: Plan) -> Decision | None:
    """Apply the gate, and replace the champion if the candidate passes.

    Returns None for a run that is not a candidate, has no model, or waits for approval.
    """
    files = context.files(plan.run_id)
    if plan.purpose != "retrain":
        return None
    with context.timed(plan.run_id, "promote"):
        decision = files.decision() or _refuse_by_verdict(context, plan) or _decide_and_swap(context, plan)
    if decision:
        files.write_decision(decision)
    return decision


def _refuse_by_verdict(context: RecordContext, plan: Plan) -> Decision | None:
    """Return the refusal of a candidate that was rejected or not approved in time, or None. Evaluates nothing."""
    approval = find_approval(context.store, plan, context.clock())
    return refusal(approval.verdict) if approval else None


def _decide_and_swap(context: RecordContext, plan: Plan) -> Decision | None:
    """Apply the gate and promote. If another candidate is promoted meanwhile, compare again with the new champion."""
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
            _swap_champion(context, seen, plan.run_id, verdict)
            return decision


def _swap_champion(context: RecordContext, seen: ChampionSnapshot, run_id: str, approved: Verdict | None) -> None:
    if approved:
        context.store.champion.swap(seen, run_id, "approved", Author(approved.author, approved.reason))
    else:
        context.store.champion.swap(seen, run_id, "promoted")


def record(context: RecordContext, plan: Plan) -> Ended:
    """Write a run's record into the ledger, or return the approval that it waits for."""
    approval = find_approval(context.store, plan, context.clock())
    return approval if approval and is_waiting(approval) else write_record(context, plan)


def write_record(context: RecordContext, plan: Plan, error: str | None = None) -> RunRecord:
    """Write a run's record into the ledger, unless it has one. Return the record in the ledger.

    The iterations of a failed run up to its last checkpoint count as its cost, because no other run can use them.
    """
    with context.store.run(plan.run_id).checkpoints() as checkpoints:
        found = context.store.ledger.find(plan.run_id)
        entry = found or _assemble(context, plan, error, failed_after=checkpoints.iteration())
        entry = context.store.ledger.write(entry)
        checkpoints.clear()
    if found is None:
        _warn_near_chance(context, plan, entry)
    return entry


def _warn_near_chance(context: RecordContext, plan: Plan, entry: RunRecord) -> None:
    """Log a warning if a new baseline is no better than a guess."""
    baseline = next_run.read_scratch_run(context.store, plan.task, entry) if is_baseline(entry) else None
    if baseline is None:
        return
    with suppress(UserError):  # without the manifests of the drops, a warning is not possible
        drops = context.store.drops.read_versions(plan.dataset.drops)
        if warning := near_chance_warning(plan.task, baseline, drops, baseline.result.iterations):
            log.warning(warning)


def _assemble(context: RecordContext, plan: Plan, error: str | None, failed_after: int) -> RunRecord:
    """Return the record of an ended run. A run that is in the champions' history counts as promoted.

    A promoted run is evaluated again if a slower process has overwritten the evaluation that the gate used.
    """
    files = context.files(plan.run_id)
    evaluation, decision = files.evaluation(), files.decision()
    if champions.was_promoted(context.store.champion.read(), plan.run_id):
        evaluation, decision = evaluate(context, plan), decision or Decision(promoted=True, reasons=())
    record = make_record(plan, files.result(), evaluation, decision, error, failed_after)
    return record.model_copy(update={"stage_seconds": dict(context.stage_seconds[plan.run_id])})


def record_failure(context: RecordContext, plan: Plan, error: str) -> RunRecord:
    """Record the last run of a retraining as failed, or as promoted if it has become champion."""
    plan = next_run.latest_attempt(context.store, plan)
    if champions.was_promoted(context.store.champion.read(), plan.run_id):
        promote(context, plan)
        return write_record(context, plan)
    return write_record(context, plan, error)
