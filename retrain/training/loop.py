"""The training loop.

The loop is the same for all methods: `setup` builds the parts in which the methods differ. The caller passes an
observer and a function that saves a checkpoint.
"""

import math
from collections.abc import Callable

from retrain.recipe.schedule import learning_rate
from retrain.records import Point
from retrain.records.run import Outcome
from retrain.training.energy import EnergyMeter
from retrain.training.evaluation import MeasuredScores, count_exactly, measure, measure_score
from retrain.training.preemption import Preempted
from retrain.training.progress import Observer, Stopwatch
from retrain.training.setup import Run
from retrain.training.step import compute_step
from retrain.training.stopping import is_early, judge, needed_accuracy


def run_loop(run: Run, observer: Observer, save: Callable[[Run], object], leaving: Callable[[], bool]) -> Outcome:
    """Train until the target is reached, the run stops improving, its schedule ends, or the loss is not finite.

    The loop calls `save` between iterations, every `save_seconds`. A run with a restored state continues as if it had
    never stopped. `leaving` returns true if the process is about to be preempted. The loop then saves the state once
    more and raises `Preempted`. All ranks do this in the same iteration, even if only one of them is about to be
    preempted. The all-reduce of their requests overlaps with the step.
    """
    plan, progress = run.plan, run.progress
    stopwatch = Stopwatch(progress, EnergyMeter(run.train.device))
    outcome: Outcome | None = None
    observer.started(plan, progress)
    while outcome is None and progress.iteration < plan.iterations:
        read_votes = run.ranks.any_rank(lambda: (leaving(), stopwatch.due(plan.task.training.save_seconds)))
        train_step(run)
        observer.stepped(progress)
        if progress.iteration % plan.evaluate_every == 0 or progress.iteration == plan.iterations:
            # Waits for the device: otherwise the time of training steps would count as evaluation.
            sums = run.loss_sum.item(), run.correct_sum.item()
            with stopwatch.aside("evaluation"):
                point = evaluate_point(run, *sums)
            observer.evaluated(point)
            outcome = outcome_at(run, point)
        leave, due = read_votes()
        if outcome is None and (leave or due):
            with stopwatch.aside("saving"):
                save(run)
            if leave:
                observer.ended("preempted", progress)
                raise Preempted
    stopwatch.tick()
    outcome = outcome or ("missed" if plan.target else "completed")
    observer.ended(outcome, progress)
    return outcome


def train_step(run: Run) -> None:
    """Do one iteration, without waiting for the device."""
    setting = run.plan.task.training
    before, batch = run.loader.position, run.loader.next()
    iteration = run.progress.iteration
    pixels = run.transform(batch.images, iteration, run.rows)
    rate = learning_rate(run.plan.recipe.schedule, run.peak_rate, iteration, run.plan.iterations, setting.warmup)
    compute = run.compute or compute_step
    run.optimizer.rate = rate
    compute(run, pixels, batch, iteration, rate, run.average.share(iteration + 1))
    if setting.learning_speed == "exact" and ends_epoch(run, before.epoch):
        count_exactly(run)
    run.progress.iteration += 1


def ends_epoch(run: Run, epochs: int) -> bool:
    """Return whether the last batch ended an epoch. `epochs` is the number of epochs that had ended before this batch.

    The sampler's epoch number increases only with the first batch of the next epoch. No such batch follows the last
    iteration of a run, so this function checks the last iteration separately.
    """
    ended = run.loader.position.epoch
    samples = run.plan.iterations * run.plan.task.training.batch_size
    is_last = run.progress.iteration + 1 == run.plan.iterations
    return ended > epochs or (is_last and round(samples / len(run.train)) > ended)


def evaluate_point(run: Run, loss_sum: float, correct_sum: float) -> Point:
    """Evaluate on val, and reset the sums of training loss and accuracy.

    The evaluation may stop after a part of val if the accuracy is unlikely to reach `needed_accuracy`.
    """
    progress, measured = run.progress, _measure_val(run)
    since = progress.points[-1].iteration if progress.points else 0
    point = Point(
        iteration=progress.iteration,
        accuracy=measured.accuracy,
        loss=finite_or_none(measured.loss),
        images=measured.images,
        train_loss=finite_or_none(loss_sum / (progress.iteration - since)),
        train_accuracy=correct_sum / (progress.iteration - since),
        learning_rate=run.optimizer.rate,
        score=measured.score,
        standard_error=measured.standard_error,
        in_scope=measured.in_scope,
        scope_among_all=measured.scope_among_all,
        newest=measured.newest,
    )
    run.loss_sum.zero_()
    run.correct_sum.zero_()
    progress.points.append(point)
    progress.evaluated_images += measured.images
    return point


def _measure_val(run: Run) -> MeasuredScores:
    """Evaluate the weights that would be promoted now. If the metric is accuracy, a part of val may be enough."""
    plan, network = run.plan, run.average.network()
    run.ranks.sync_buffers(network)
    if plan.metric != "accuracy":
        return measure_score(network, run.val, plan.metric, run.normalize, run.ranks, run.groups)
    needed, early = needed_accuracy(plan.target, plan.stop_rule), is_early(plan.target, run.progress.iteration)
    return measure(network, run.val, run.val_order, run.normalize, needed, run.ranks, early, run.groups)


def outcome_at(run: Run, point: Point) -> Outcome | None:
    """Return the outcome if the newest evaluation ends the run, else None.

    An evaluation of a part of val ends a run only if the loss is not finite.
    """
    if point.train_loss is None or point.loss is None:
        return "diverged"
    if point.images < len(run.val_order):
        return None
    on_all_of_val = [earlier for earlier in run.progress.points if earlier.images == point.images]
    before = [earlier for earlier in on_all_of_val if earlier.iteration < point.iteration]
    if run.plan.target is None and has_fitted(point, run.plan.task.training.stop_at_train_accuracy):
        return "completed"
    return judge([*before, point], run.plan.target, run.plan.stop_rule, run.plan.iterations)


def has_fitted(point: Point, accuracy: float | None) -> bool:
    """Return whether the mean training accuracy since the evaluation before `point` is at least `accuracy`.

    Ash & Adams (section 3.7) end runs in this way.
    """
    return accuracy is not None and point.train_accuracy is not None and point.train_accuracy >= accuracy


def finite_or_none(value: float) -> float | None:
    """Return the value, or None if it is not finite, because JSON has no NaN."""
    return value if math.isfinite(value) else None
