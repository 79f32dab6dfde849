"""The training loop. Which method it runs is decided before it, in `setup`; how it is watched and saved, outside it."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch.nn import functional

from retrain.recipe.schedule import learning_rate
from retrain.records import Point
from retrain.training.evaluation import count_exactly, measure
from retrain.training.preemption import Preempted
from retrain.training.progress import Clock, Observer
from retrain.training.setup import Run
from retrain.training.stopping import is_early, needed_accuracy

Outcome = Literal["reached", "missed", "completed", "diverged"]


def run_loop(run: Run, observer: Observer, save: Callable[[Run], object], leaving: Callable[[], bool]) -> Outcome:
    """Train until val reaches the target, the schedule ends, or the loss is not finite.

    `save` is called between iterations, every `save_seconds`. A run whose state was restored goes on as if it had
    never stopped. `leaving` says whether the machine is being taken away: then the state is saved once more, and
    `Preempted` raised. Several processes save, leave and end in the same iteration: any one's wish is all's, and what
    they wish at its start is told while they compute.
    """
    plan, progress = run.plan, run.progress
    clock = Clock(progress)
    outcome: Outcome | None = None
    observer.started(plan, progress)
    while outcome is None and progress.iteration < plan.iterations:
        told = run.ranks.any_rank(lambda: (leaving(), clock.due(plan.task.training.save_seconds)))
        train_step(run)
        observer.stepped(progress)
        if progress.iteration % plan.evaluate_every == 0 or progress.iteration == plan.iterations:
            loss_sum = run.loss_sum.item()  # waits for the device, so that its work is not counted as evaluation
            with clock.aside("evaluation"):
                point = evaluate_point(run, loss_sum)
            observer.evaluated(point)
            outcome = outcome_at(run, point)
        leave, due = told()
        if outcome is None and (leave or due):
            with clock.aside("saving"):
                save(run)
            if leave:
                observer.ended("preempted", progress)
                raise Preempted
    clock.tick()
    outcome = outcome or ("missed" if plan.target else "completed")
    observer.ended(outcome, progress)
    return outcome


def train_step(run: Run) -> None:
    """Do one iteration. Nothing in it waits for the device."""
    setting = run.plan.task.training
    before, batch = run.loader.position, run.loader.next()
    images, labels = run.augment(batch.images, run.augmentation, run.rows), batch.labels
    run.optimizer.rate = learning_rate(
        run.plan.recipe.schedule, setting.optimizer.learning_rate, run.progress.iteration, run.plan.iterations
    )
    run.optimizer.zero_grad()  # before the forward pass, whose graph may have the gradients' memory
    with torch.autocast(images.device.type, torch.bfloat16, enabled=setting.bf16):
        logits = run.forward(images)
    logits = logits.float()
    losses = functional.cross_entropy(logits, labels, reduction="none")
    mean_loss = losses.mean()
    torch.autograd.backward(run.batch_loss(images, labels, logits, mean_loss) * run.weight)
    run.change_gradients(run.progress.iteration)
    run.optimizer.step()
    correct, losses = run.ranks.gather_batch(run.rows, logits.argmax(1) == labels, losses.detach())
    if setting.learning_speed == "free":
        run.counters.count(batch.samples, correct, losses)
    elif run.loader.position.passes > before.passes:
        count_exactly(run)
    run.loss_sum += losses.mean()
    run.progress.iteration += 1


def evaluate_point(run: Run, loss_sum: float) -> Point:
    """Evaluate on val, exactly from the lowest level of interest on, and start a new mean of the training loss."""
    plan, progress = run.plan, run.progress
    needed, early = needed_accuracy(plan.target), is_early(plan.target, progress.iteration)
    run.ranks.sync_buffers(run.network)
    measured = measure(run.network, run.val, run.val_order, run.normalize, needed, run.ranks, early)
    since = progress.points[-1].iteration if progress.points else 0
    point = Point(
        iteration=progress.iteration,
        accuracy=measured.accuracy,
        loss=finite_or_none(measured.loss),
        images=measured.images,
        train_loss=finite_or_none(loss_sum / (progress.iteration - since)),
        learning_rate=run.optimizer.rate,
    )
    run.loss_sum.zero_()
    progress.points.append(point)
    progress.evaluated_images += measured.images
    return point


def outcome_at(run: Run, point: Point) -> Outcome | None:
    """Say whether the run ends with this point. Only the whole of val can say that the target is reached."""
    if point.train_loss is None or point.loss is None:
        return "diverged"
    target = run.plan.target
    if target and point.images == len(run.val_order) and point.accuracy >= target.accuracy:
        return "reached"
    return None


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None
