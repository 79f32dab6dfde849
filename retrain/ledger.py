"""The ledger: one immutable record for each ended run, and what it says was saved."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

from retrain.layout import Layout
from retrain.planning import scale_of
from retrain.records import Decision, Evaluation, Plan, Result, RunRecord, Savings, parsed
from retrain.store.base import Conflict, Missing, Store
from retrain.store.parallel import ask_all

EVALUATION_SHARE = 1 / 3
"""An evaluated image costs a third of a trained one: the forward pass without the backward."""


def write(store: Store, layout: Layout, record: RunRecord) -> RunRecord:
    """Add a record; the record that is in the ledger in the end is returned: the first one written wins."""
    try:
        store.create(layout.record(record.run_id), record.to_bytes())
    except Conflict:
        return _parse(store, layout.record(record.run_id))
    return record


def read(store: Store, layout: Layout) -> list[RunRecord]:
    """Return all records in the order in which their runs ended."""
    keys = [entry.key for entry in store.list(layout.ledger) if entry.key.endswith(".json")]
    return sorted(ask_all(partial(_parse, store), keys), key=lambda record: (record.ended_at, record.run_id))


def find(store: Store, layout: Layout, run_id: str) -> RunRecord | None:
    """Return one run's record, or None if it has not ended."""
    try:
        return _parse(store, layout.record(run_id))
    except Missing:
        return None


def is_baseline(record: RunRecord) -> bool:
    """Say whether targets may come from this run."""
    return record.method == "scratch" and record.outcome == "completed" and record.purpose != "trial"


def _parse(store: Store, key: str) -> RunRecord:
    data, _ = store.read(key)
    return parsed(RunRecord, data, f"{store.url}/{key}")


def assemble(
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
        savings=savings(plan, outcome, used, evaluated),
        costs=plan.task.costs,
        started_at=result.started_at if result else now,
        ended_at=now,
    )


def savings(plan: Plan, outcome: str, used: int, evaluated_images: int) -> Savings | None:
    """Return what a run saved against scratch (see `Savings`), or None for a trial, which replaces no retraining."""
    if plan.purpose == "trial":
        return None
    baseline = _baseline(plan, outcome, used)
    evaluation = EVALUATION_SHARE * evaluated_images / plan.task.training.batch_size
    is_own_baseline = plan.target is None and baseline > 0
    all_in = used if is_own_baseline else used + evaluation
    gross = 0 if plan.purpose == "calibrate" else baseline - used
    return Savings(baseline=baseline, used=used, used_all_in=all_in, gross=gross, net=baseline - all_in)


def _baseline(plan: Plan, outcome: str, used: int) -> int:
    """The iterations that training from scratch would have taken for the model that this run yielded."""
    if not plan.replaces_scratch or plan.purpose == "calibrate" or outcome in ("missed", "diverged", "failed"):
        return 0
    return plan.target.baseline_iterations if plan.target else used


def total(records: Iterable[RunRecord]) -> Savings:
    """Add up what a ledger's runs saved."""
    nothing = Savings(baseline=0, used=0, used_all_in=0, gross=0, net=0)
    return sum((record.savings for record in records if record.savings), nothing)
