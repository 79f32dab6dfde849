"""One attempt: a plan trained to its end, or on from where it was when the machine went."""

import time
from datetime import UTC, datetime

from retrain.checkpoints import Checkpoints
from retrain.context import Context
from retrain.recipe.learning_speed import DECAY, add
from retrain.recipe.settings import Fresh
from retrain.records import Plan, Result
from retrain.training.loop import Outcome, train
from retrain.training.optimizers import moments
from retrain.training.preemption import deferred
from retrain.training.result import summarize
from retrain.training.setup import Parent, Run, set_up
from retrain.training.state import freeze, thaw


def attempt(context: Context, plan: Plan) -> Result:
    """Train a plan and keep what came of it; a plan that was trained before is not trained again.

    Raises `Preempted` (after saving) if SIGTERM comes, `ModelError` if the parent does not fit, `DropError` if a drop
    is damaged, `RunError` if the parent's files are, and `StoreError`.
    """
    with Checkpoints(context.store, context.layout, plan.run_id) as checkpoints:
        result = context.files(plan.run_id).result() or _train(context, plan, checkpoints)
        checkpoints.clear()
    return result


def _train(context: Context, plan: Plan, checkpoints: Checkpoints) -> Result:
    started_at, since = datetime.now(UTC), time.monotonic()
    parent = _parent(context, plan)
    run = _set_up(context, plan, parent)
    if state := checkpoints.load():
        thaw(run, state)
    run.progress.data_seconds += time.monotonic() - since
    with deferred() as leaving:
        outcome = train(
            run, context.observer, lambda run: checkpoints.save(run.progress.iteration, freeze(run)), leaving
        )
        return _keep(context, run, parent, outcome, started_at)


def prepare(context: Context, plan: Plan) -> Run:
    """Return a plan's run as it is before its first step."""
    return _set_up(context, plan, _parent(context, plan))


def _set_up(context: Context, plan: Plan, parent: Parent | None) -> Run:
    splits = context.samples(plan.dataset, ("train", "val"), plan.task.data.image_size)
    return set_up(plan, splits["train"], splits["val"], parent)


def _parent(context: Context, plan: Plan) -> Parent | None:
    if plan.parent is None:
        return None
    files = context.files(plan.parent)
    goes_on = _keeps_moments(plan) and not isinstance(plan.recipe.initialization, Fresh)
    return Parent(
        files.weights(), files.counters(plan.dataset, plan.known), moments=files.moments() if goes_on else None
    )


def _keeps_moments(plan: Plan) -> bool:
    return plan.task.training.optimizer_state == "kept"


def _keep(context: Context, run: Run, parent: Parent | None, outcome: Outcome, started_at: datetime) -> Result:
    """Write model, index and curve, then the result that vouches for them."""
    plan, files = run.plan, context.files(run.plan.run_id)
    model_digest = files.write_model(run.network.state_dict()) if outcome != "diverged" else None
    if _keeps_moments(plan):
        files.write_moments(moments(run.optimizer))
    counters = add(parent.counters, run.counters, DECAY) if parent else run.counters
    index_digest = files.write_counters(plan.dataset, counters)
    files.write_curve(run.progress.points)
    result = summarize(run, outcome, started_at, model_digest, index_digest)
    files.write_result(result)
    return result
