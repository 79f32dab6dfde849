"""Warnings of a plan about settings and targets with effects that a user would not expect. Pure functions."""

import math
from collections.abc import Iterable

from retrain.config.task import Task
from retrain.pipeline.targets import ScratchRun
from retrain.records import Dataset, Target

UNCERTAIN_TARGET = 0.03
"""Standard error of a target above which a plan warns. An accuracy of 85% on 140 images has this error."""


def setting_warnings(task: Task, dataset: Dataset, whole: int, evaluate_every: int) -> Iterable[str]:
    """Yield warnings about data and training settings with effects that a user would not expect.

    `whole` is the length of scratch's schedule, in iterations.
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
    if whole <= task.training.warmup:
        yield (
            f"training.warmup {task.training.warmup:,} is not shorter than scratch's {whole:,} iterations, so the "
            "learning rate never reaches its full value: shorten it, or add epochs"
        )
    if (batch_size := task.training.batch_size) > dataset.samples:
        yield (
            f"training.batch_size {batch_size:,} is larger than the {dataset.samples:,} training samples, so each "
            "iteration takes the same ones several times: lower it, for more iterations in the same epochs"
        )
    if evaluate_every >= whole > 1 and task.training.evaluate_every != "auto":
        yield (
            f"training.evaluate_every {task.training.evaluate_every:g} counts epochs, and scratch's training has no "
            "more, so a run meets its target only at its end and saves nothing: lower it"
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
            f"validation images), so a run may end too early or too late: with {needed:,} images it would be "
            f"{UNCERTAIN_TARGET:.0%}. Hold out more of the next drops with data.val_share, then run `retrain baseline`"
        )
