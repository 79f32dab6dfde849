"""Compute the ledger record of an ended run, and its savings compared with training from scratch."""

from datetime import UTC, datetime

from retrain.pipeline.lengths import EVALUATION_SHARE, scale_of
from retrain.pipeline.planning import escalate
from retrain.records import Decision, Evaluation, Plan, Result, RunRecord, Savings, ScratchEstimate


def make_record(
    plan: Plan,
    result: Result | None,
    evaluation: Evaluation | None,
    decision: Decision | None,
    error: str | None,
    failed_after: int = 0,
) -> RunRecord:
    """Return the record of a finished run. Without a result, the run failed after `failed_after` iterations."""
    now = datetime.now(UTC)
    drops = tuple(drop.id for drop in plan.dataset.drops)
    outcome = result.outcome if result and error is None else "failed"
    following = escalate(plan) if outcome == "missed" else None
    used, evaluated = (result.iterations, result.cost.evaluated_images) if result else (failed_after, 0)
    is_delivered = outcome == "reached" and decision is not None and decision.promoted
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
        metric=plan.metric,
        target=plan.target,
        scratch=plan.scratch,
        result=result,
        evaluation=evaluation,
        decision=decision,
        savings=compute_savings(plan, outcome, used, evaluated, is_delivered),
        costs=plan.task.costs,
        followed_by=following.run_id if following else None,
        started_at=result.started_at if result else now,
        ended_at=now,
    )


def compute_savings(plan: Plan, outcome: str, used: int, evaluated_images: int, is_delivered: bool) -> Savings | None:
    """Return a run's savings compared with scratch (see `Savings`).

    Returns None for a trial, because a trial replaces no retraining. `is_delivered`: the run reached its target and the
    gate promoted its model.
    """
    if plan.purpose == "trial":
        return None
    all_in = used + EVALUATION_SHARE * evaluated_images / plan.task.training.batch_size
    if plan.purpose == "calibrate":
        return Savings(
            baseline=0, whole=0, used=used, used_all_in=all_in, gross=0, net=-all_in, gross_whole=0, net_whole=-all_in
        )
    if plan.target is None and plan.replaces_scratch and outcome == "completed":  # this run is the new baseline
        return Savings(
            baseline=used, whole=used, used=used, used_all_in=used, gross=0, net=0, gross_whole=0, net_whole=0
        )
    is_credited = is_delivered and plan.replaces_scratch
    return _compare_to_scratch(_scratch_estimate(plan) if is_credited else None, used, all_in)


def _compare_to_scratch(scratch: ScratchEstimate | None, used: int, all_in: float) -> Savings:
    """Return the savings of a run compared with scratch on its dataset.

    Without `scratch`, the run replaces no scratch training, so its savings are negative.
    """
    baseline, whole = (round(scratch.iterations), scratch.schedule) if scratch else (0, 0)
    return Savings(
        baseline=baseline,
        whole=whole,
        used=used,
        used_all_in=all_in,
        gross=baseline - used,
        net=baseline - all_in,
        gross_whole=whole - used,
        net_whole=whole - all_in,
        standard_error=scratch.standard_error if scratch else 0.0,
    )


def _scratch_estimate(plan: Plan) -> ScratchEstimate | None:
    """Return scratch's iterations on a plan's dataset. A plan without an estimate uses its baseline's iterations."""
    if plan.scratch or plan.target is None:
        return plan.scratch
    s_scratch = plan.target.baseline_iterations
    return ScratchEstimate(iterations=s_scratch, schedule=s_scratch, standard_error=0.0, provenance="estimated", runs=1)
