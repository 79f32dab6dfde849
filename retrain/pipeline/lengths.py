"""Compute the length of a run and its evaluation interval, in iterations."""

import math

from retrain.config import Method
from retrain.config.recipe import Recipe, recipe_for
from retrain.config.task import Task
from retrain.recipe.schedule import resolve_scale
from retrain.records import Dataset

EVALUATION_SHARE = 1 / 3
"""Cost of evaluating an image, relative to training on it: the forward pass without the backward pass."""

EVALUATIONS = 60
"""Number of evaluations in scratch's schedule if `training.evaluate_every` is auto. A run can meet its target only at
an evaluation."""

MOST_EVALUATION = 0.1
"""Largest share of the training's work for evaluations if `training.evaluate_every` is auto."""


def evaluation_interval(task: Task, dataset: Dataset, val_samples: int) -> int:
    """Return the number of iterations between evaluations. It is the same for all methods.

    If `training.evaluate_every` is auto, scratch's schedule has `EVALUATIONS` evaluations. It has fewer if these would
    take more than `MOST_EVALUATION` of the training's work.
    """
    if task.training.evaluate_every != "auto":
        return max(1, round(_epochs(task, dataset, task.training.evaluate_every)))
    cost = EVALUATION_SHARE * val_samples / task.training.batch_size
    schedule = _schedule(task, dataset)
    return max(1, round(schedule / EVALUATIONS), math.ceil(cost / MOST_EVALUATION))


def _epochs(task: Task, dataset: Dataset, epochs: float) -> float:
    """Return the iterations of a number of epochs."""
    return epochs * dataset.samples / task.training.batch_size


def _schedule(task: Task, dataset: Dataset) -> float:
    """Return the length of scratch's schedule, in iterations."""
    return task.training.iterations or _epochs(task, dataset, task.training.epochs)


def schedule_length(task: Task, dataset: Dataset, recipe: Recipe) -> int:
    """Return the length of a resolved recipe's schedule, in iterations."""
    return max(1, round(_schedule(task, dataset) * scale_of(recipe)))


def scale_of(recipe: Recipe) -> float:
    """Return the length of a resolved recipe's schedule, as a multiple of scratch's schedule."""
    scale = recipe.schedule.scale
    if scale == "auto":
        raise ValueError("recipe.schedule.scale is still auto: resolve it first")
    return scale


def scaled_recipe(task: Task, method: Method, dataset: Dataset, known: int) -> Recipe:
    """Return the method's recipe, with the scale of its schedule resolved by the share of new samples.

    The first `known` drops of the dataset are not new.
    """
    recipe = recipe_for(method, task.recipe)
    new_share = sum(drop.samples for drop in dataset.drops[known:]) / dataset.samples
    return with_scale(recipe, resolve_scale(recipe.schedule, new_share))


def with_scale(recipe: Recipe, scale: float) -> Recipe:
    """Return a recipe whose schedule is `scale` times as long as scratch's."""
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"scale": scale})})
