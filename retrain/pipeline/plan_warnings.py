"""Warnings of a plan about settings and targets whose effects a user would not expect. Pure functions."""

import math
from collections.abc import Iterable

from retrain.config.loading import task_argument
from retrain.config.task import Task
from retrain.data.dataset import amended_drops
from retrain.pipeline.targets import ScratchRun, why_near_chance
from retrain.records import Dataset, Drop, Plan, Target
from retrain.utils.text import pluralize

UNCERTAIN_TARGET = 0.03
"""Standard error of a target above which a plan warns. An accuracy of 85% on 140 images has this error."""
FEW_ITERATIONS, ENOUGH_ITERATIONS = 150, 300
"""Scratch's iterations below which a plan warns, and the number of iterations that it suggests.

In trials on 399 images of digits, scratch runs of 47, 140 and 312 iterations ended at accuracies of 65%, 90% and 95%.
"""
SMALL_BATCH = 16
"""Smallest batch that a warning suggests."""
FEW_EVALUATIONS = 10
"""Evaluations in scratch's training below which a plan warns."""


def setting_warnings(task: Task, dataset: Dataset, schedule: int, evaluate_every: int) -> Iterable[str]:
    """Yield warnings about data and training settings whose effects a user would not expect.

    `schedule` is the length of scratch's schedule, in iterations.
    """
    if len(dataset.classes) == 1:
        yield (
            f"the drops have only one class, {dataset.classes[0]!r}, so any model is always right: pack the folder "
            "that contains the class folders"
        )
    weights = task.training.class_weights
    if unknown := [name for name in weights if name not in dataset.classes] if isinstance(weights, dict) else []:
        yield f"training.class_weights: no drop has the class {', '.join(map(repr, unknown))}; its weight is not used"
    if weights != "none" and task.training.balanced_sampling:
        yield "training.class_weights and training.balanced_sampling both correct for rare classes: set one of them"
    if schedule <= task.training.warmup:
        yield (
            f"training.warmup {task.training.warmup:,} is not shorter than scratch's {schedule:,} iterations, so the "
            "learning rate never reaches its full value: shorten it, or add epochs"
        )
    if (batch_size := task.training.batch_size) > dataset.samples:
        yield (
            f"training.batch_size {batch_size:,} is larger than the {dataset.samples:,} training samples, so each "
            "iteration uses samples several times: set a smaller batch size to get more iterations per epoch"
        )
    if FEW_EVALUATIONS * evaluate_every > schedule > 1 and task.training.evaluate_every != "auto":
        yield (
            f"training.evaluate_every {task.training.evaluate_every:g} counts epochs, so scratch's training has only "
            f"{pluralize(max(1, schedule // evaluate_every), 'evaluation')}. A run can end only at an evaluation, and "
            "saves little if there are few: set a smaller value"
        )


def length_warnings(task: Task, samples: int, schedule: int) -> Iterable[str]:
    """Yield a warning if scratch's schedule, in iterations, is too short to fit this number of training samples."""
    if schedule >= FEW_ITERATIONS or task.model.pretrained:  # a pretrained network needs few iterations
        return
    settings = settings_for(ENOUGH_ITERATIONS, task, samples)
    yield (
        f"scratch has only {pluralize(schedule, 'iteration')}, so its model and the target may stay far below what the "
        f"data allow: set {settings}"
    )


def near_chance_warning(task: Task, baseline: ScratchRun, drops: Iterable[Drop], schedule: int) -> str | None:
    """Return a warning if a scratch run is no better than a guess on its drops, or None.

    `schedule` is the length of scratch's schedule, in iterations.
    """
    drops = tuple(drops)
    if (why := why_near_chance(task.target, baseline, drops)) is None:
        return None
    samples = sum(drop.samples("train") for drop in drops)
    longer = settings_for(max(ENOUGH_ITERATIONS, 2 * schedule), task, samples)
    return f"{why}: the scratch run has learnt almost nothing. Check the labels, or train longer: set {longer}"


def trial_warnings(task: Task, parent: Plan, dataset: Dataset) -> Iterable[str]:
    """Yield a warning if a trial's parent was trained on all drops of the trial's dataset."""
    if {drop.id for drop in dataset.drops} <= {drop.id for drop in parent.dataset.drops}:
        yield (
            f"{parent.run_id} was trained on all of these drops, so a trial that starts from it reaches the target "
            f"sooner than {parent.run_id} did. Do not compare their iterations: compare presets with `retrain study "
            f"recommend --task {task_argument(task.name)}`"
        )


def settings_for(iterations: int, task: Task, samples: int) -> str:
    """Return the settings with which scratch trains for at least these iterations, given its training samples.

    A schedule is at least one iteration, so its length would not show how many epochs are missing.
    """
    training = task.training
    if training.iterations:
        return f"training.iterations to {iterations:,} or more"
    batch_size = training.batch_size
    seen = max(1, samples) * training.epochs
    while batch_size > SMALL_BATCH and seen < iterations * batch_size:
        batch_size //= 2
    ways = [f"training.epochs to {math.ceil(iterations * training.batch_size / max(1, samples)):,} or more"]
    if batch_size < training.batch_size and seen >= iterations * batch_size:
        ways.insert(0, f"training.batch_size to {batch_size}")
    return ", or ".join(ways)


def correction_warnings(
    task: Task, target: Target | None, baseline: ScratchRun | None, dataset: Dataset, drops: Iterable[Drop]
) -> Iterable[str]:
    """Yield a warning if validation samples of a carried target may have been corrected since it was measured.

    The number of corrected samples is an upper bound, because it includes corrections before the baseline was trained.
    """
    if target is None or target.scope is None or baseline is None:
        return
    amended = amended_drops(dataset, baseline.dataset)
    if corrected := sum(change.split == "val" for drop in drops if drop.id in amended for change in drop.changes):
        yield (
            f"up to {corrected:,} of the {baseline.val_samples:,} validation images that {baseline.record.run_id} "
            "measured the target on have been corrected or removed since, so the target may be too high or too low: "
            f"`retrain baseline --task {task_argument(task.name)}` measures it again"
        )


def target_warnings(target: Target | None, baseline: ScratchRun | None) -> Iterable[str]:
    """Yield warnings about a target that can hardly be reached, or that is uncertain."""
    if target is None or baseline is None or not (samples := baseline.val_samples):
        return
    if target.accuracy > 1 - 1 / samples:
        yield (
            f"target {target.accuracy:.2%} allows no error in {samples:,} validation images: "
            "lower target.level, or hold out more with data.val_share"
        )
    elif target.standard_error > UNCERTAIN_TARGET:
        needed = math.ceil(samples * (target.standard_error / UNCERTAIN_TARGET) ** 2)
        yield (
            f"target {target.accuracy:.2%} is uncertain by {target.standard_error:.2%} (standard error, {samples:,} "
            f"validation images), so a run may end too early or too late: with {needed:,} images the error would be "
            f"{UNCERTAIN_TARGET:.0%}. Hold out more of the next drops with data.val_share, and run `retrain baseline` "
            "before the next retraining, because a later baseline does not change the record of a retraining"
        )
