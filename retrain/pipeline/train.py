"""Train one plan, or resume it from its checkpoint.

In distributed training, the other ranks receive each plan from rank 0, and train along with it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import zip_longest

from retrain.config.recipe import EasyHard, Fresh
from retrain.errors import DamagedDrop
from retrain.models import factory
from retrain.models.pretrained import body_weights, read_pretrained
from retrain.pipeline.context import Context
from retrain.recipe.learning_speed import Counters, add_decayed, split
from retrain.records import Plan, Result
from retrain.records.plan import check_known
from retrain.records.run import Outcome
from retrain.store.checkpoints import Checkpoints
from retrain.training.evaluation import measure_train_accuracy
from retrain.training.hardware import BF16_SLOW, compile_forward, is_bf16_slow, tune_malloc, use_threads
from retrain.training.index_files import read_counters, read_known_counters, write_counters
from retrain.training.loop import run_loop
from retrain.training.optimizers import moments
from retrain.training.preemption import defer_signals
from retrain.training.result import make_result
from retrain.training.seeds import fresh_network
from retrain.training.setup import Parent, Run, set_up
from retrain.training.state import load_state, save_state
from retrain.training.step import choose_step
from retrain.training.streaming import explain_lost_worker

log = logging.getLogger("retrain")


def train_plan(context: Context, plan: Plan) -> Result:
    """Train a plan and write its result. A plan with a result is not trained again.

    On SIGTERM, this saves a checkpoint and raises `Preempted`. Raises `ModelError` if the parent's weights do not fit
    the network, `DropError` if a drop is damaged, `RunError` if the parent's files are damaged or the plan needs a
    later version of retrain, and `StoreError` if the store fails.
    """
    with context.store.run(plan.run_id).checkpoints() as checkpoints:
        result = context.files(plan.run_id).result() or _train(context, plan, checkpoints)
        checkpoints.clear()
    return result


def _train(context: Context, plan: Plan, checkpoints: Checkpoints) -> Result:
    started_at, since = datetime.now(UTC), time.monotonic()
    check_known(plan)
    run, state = prepare(context, plan), checkpoints.load()
    context.ranks.publish_plan(plan.model_dump_json())
    with _start_or_resume(run, state) as leaving:
        run.progress.data_seconds += time.monotonic() - since
        outcome = run_loop(
            run, context.observer, lambda run: checkpoints.save(run.progress.iteration, save_state(run)), leaving
        )
        return _write_result(context, run, outcome, started_at)


def follow_leader(context: Context) -> None:
    """Train along with the first process until it has no more plans. Only the first process writes to the store.

    Raises `Preempted` if the first process is preempted or lost.
    """
    try:
        while work := context.ranks.wait_for_plan():
            run = prepare(context, Plan.model_validate_json(work))
            with _start_or_resume(run, None) as leaving:
                run_loop(run, context.observer, save_state, leaving)
    except DamagedDrop as error:
        context.ranks.report_damage(error)  # the first process quarantines the drop
        raise


@contextmanager
def _start_or_resume(run: Run, state: bytes | None) -> Iterator[Callable[[], bool]]:
    """Load the first process's checkpoint in all processes, if there is one, and prepare the forward pass.

    Yields a function that returns whether a signal asked the process to stop. Such signals are deferred within the
    context.
    """
    with (
        explain_lost_worker(),
        closing(run.loader),
        use_threads(run.threads),
        defer_signals(announce=run.ranks.rank == 0) as leaving,
        run.ranks.preempt_on_lost_rank(),
    ):
        if run.train.device.type == "cpu":
            tune_malloc()
        if state := run.ranks.broadcast(state or b""):
            load_state(run, state)
        how = run.plan.task.training.compile
        run.forward = compile_forward(run.ranks.replicate(run.network), how, run.train.device)
        run.compute = choose_step(run)
        yield leaving


def prepare(context: Context, plan: Plan) -> Run:
    """Return the run of a plan, ready for its first training step."""
    factory.check_factory_allowed(plan.task.model, context.factories)
    if is_bf16_slow(plan.task.training.bf16, context.device):
        log.warning(BF16_SLOW)
    splits = context.samples(plan.dataset, ("train", "val"), plan.task.data, plan.loading)
    if plan.loading.kind == "stream":
        log.info("data is streamed: %s", plan.loading.reason)
    weights = read_pretrained(context.store, plan.task, keep=True)
    pretrained = body_weights(fresh_network(plan), weights) if weights else None
    return set_up(plan, splits["train"], splits["val"], _parent(context, plan), context.ranks, pretrained)


def _parent(context: Context, plan: Plan) -> Parent | None:
    if plan.parent is None:
        return None
    files = context.champion_files(plan.parent)
    resumes = _keeps_moments(plan) and not isinstance(plan.recipe.initialization, Fresh)
    by_speed = isinstance(plan.recipe.sampling, EasyHard)
    return Parent(
        weights=files.weights(),
        counters=read_counters(files, plan.dataset, plan.known) if by_speed else None,
        moments=files.moments() if resumes else None,
    )


def _keeps_moments(plan: Plan) -> bool:
    return plan.task.training.optimizer_state == "kept"


def _write_result(context: Context, run: Run, outcome: Outcome, started_at: datetime) -> Result:
    """Write the model, the learning-speed index and the curve. Write the result last, to mark them as complete."""
    plan, files = run.plan, context.files(run.plan.run_id)
    final_network = run.average.network()
    model_digest = files.write_model(final_network.state_dict()) if outcome != "diverged" else None
    train_accuracy = measure_train_accuracy(run) if outcome != "diverged" else None
    moments_digest = files.write_moments(moments(run.optimizer)) if _keeps_moments(plan) else None
    index_digest = write_counters(files, plan.dataset, _counters(context, run))
    files.write_curve(run.progress.points)
    result = make_result(run, outcome, started_at, model_digest, index_digest, moments_digest, train_accuracy)
    files.write_result(result)
    return result


def _read_parent_counters(context: Context, run: Run) -> Iterable[Counters]:
    """Return the parent's counters for each drop that the parent was trained on.

    If the sampling needed them, the run already has them. Otherwise they are read from the parent's files.
    """
    plan = run.plan
    if plan.parent is None:
        return ()
    if run.parent_counters:
        return split(run.parent_counters, [drop.samples for drop in plan.dataset.drops])[: plan.known]
    return read_known_counters(context.champion_files(plan.parent), plan.dataset, plan.known)


def _counters(context: Context, run: Run) -> Iterator[Counters]:
    """Yield each drop's counters: this run's counters plus `index_decay` times the parent's counters."""
    plan = run.plan
    own = split(run.counters, [drop.samples for drop in plan.dataset.drops])
    for old, new in zip_longest(_read_parent_counters(context, run), own):
        yield add_decayed(old, new, plan.task.training.index_decay) if old else new


@contextmanager
def run_as_leader(context: Context) -> Iterator[Context]:
    """Yield the context in the first or only process. Any other process trains along with it, and exits here.

    In all other ranks, this raises `SystemExit` after rank 0 has ended, or `Preempted` if rank 0 was preempted or lost.
    """
    if context.ranks.rank:
        follow_leader(context)
        raise SystemExit
    try:
        yield context
    finally:
        context.ranks.publish_plan("")
