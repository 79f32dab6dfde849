"""The ledger record of an ended run, and the iterations it saved against training from scratch."""

from datetime import UTC, datetime

from retrain.pipeline.planning import escalate, scale_of
from retrain.records import Decision, Evaluation, Plan, Result, RunRecord, Savings

EVALUATION_SHARE = 1 / 3
"""An evaluated image costs a third of a trained one: the forward pass without the backward."""


def make_record(
    plan: Plan,
    result: Result | None,
    evaluation: Evaluation | None,
    decision: Decision | None,
    error: str | None,
    lost: int = 0,
) -> RunRecord:
    """Return the record of an ended run; without a result, of one that failed after `lost` iterations."""
    now = datetime.now(UTC)
    drops = tuple(drop.id for drop in plan.dataset.drops)
    outcome = result.outcome if result and error is None else "failed"
    following = escalate(plan) if outcome == "missed" else None
    used, evaluated = (result.iterations, result.cost.evaluated_images) if result else (lost, 0)
    return RunRecord(
        run_id=plan.run_id,
        task=plan.task.name,
        method=plan.method,
        purpose=plan.purpose,
        outcome=outcome,
        error=error,
        dataset_digest=plan.dataset.digest,
        drops=drops,
        new_drops=drops[plan.known :],
        parent=plan.parent,
        attempt=plan.attempt,
        seed=plan.seed,
        scale=scale_of(plan.recipe),
        target=plan.target,
        result=result,
        evaluation=evaluation,
        decision=decision,
        savings=compute_savings(plan, outcome, used, evaluated),
        costs=plan.task.costs,
        followed_by=following.run_id if following else None,
        started_at=result.started_at if result else now,
        ended_at=now,
    )


def compute_savings(plan: Plan, outcome: str, used: int, evaluated_images: int) -> Savings | None:
    """Return what a run saved against scratch (see `Savings`), or None for a trial, which replaces no retraining."""
    if plan.purpose == "trial":
        return None
    baseline = _scratch_iterations(plan, outcome, used)
    evaluation = EVALUATION_SHARE * evaluated_images / plan.task.training.batch_size
    is_own_baseline = plan.target is None and baseline > 0
    all_in = used if is_own_baseline else used + evaluation
    gross = 0 if plan.purpose == "calibrate" else baseline - used
    return Savings(baseline=baseline, used=used, used_all_in=all_in, gross=gross, net=baseline - all_in)


def _scratch_iterations(plan: Plan, outcome: str, used: int) -> int:
    """The iterations that training from scratch would have taken for the model that this run yielded."""
    if not plan.replaces_scratch or plan.purpose == "calibrate" or outcome in ("missed", "diverged", "failed"):
        return 0
    return plan.target.baseline_iterations if plan.target else used
