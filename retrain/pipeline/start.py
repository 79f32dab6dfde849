"""Choose how a run starts, and whether its learning rate falls, from the record of its parent."""

import re

from retrain.config.optimizers import Sgd
from retrain.config.recipe import Auto, AutoSchedule, Recipe
from retrain.config.task import Task
from retrain.recipe.schedule import resolve_kind
from retrain.recipe.start import has_large_steps, missing_fit, resolve_initialization
from retrain.records import Plan, Result, RunRecord

WITHOUT_BATCHNORM = re.compile(r"mlp|logistic|alexnet|squeezenet.*|vgg\d+|convnext.*|vit_.*|swin.*")
"""Names of networks without BatchNorm layers. All other torchvision networks have them."""


FALLS = "The learning rate falls during the run, because its steps are large relative to the weights."


def resolve_start(task: Task, recipe: Recipe, parent: Plan | None, record: RunRecord | None) -> tuple[Recipe, str]:
    """Return the recipe with its initialization and schedule resolved, and the reason in sentences.

    `record` is the parent's record, if there is a parent.
    """
    resolved, reason = _resolve_initialization(task, recipe, parent, record)
    is_auto = isinstance(recipe.schedule, AutoSchedule)
    falls = is_auto and parent is not None and _needs_falling_rate(parent, record)
    schedule = resolve_kind(recipe.schedule, falls)
    return resolved.model_copy(update={"schedule": schedule}), f"{reason} {FALLS}" if falls else reason


def read_missing_fit(parent: RunRecord | None) -> float:
    """Return the missing fit of a parent, from its record.

    The missing fit rises from 0 (the parent has fitted its training data) to 1 (under-fitted). It is 1 if it is
    unknown.
    """
    if parent is None or parent.result is None or parent.result.train_accuracy is None:
        return 1.0
    return missing_fit(parent.result.train_accuracy, parent.result.final_accuracy)[0]


def _resolve_initialization(
    task: Task, recipe: Recipe, parent: Plan | None, record: RunRecord | None
) -> tuple[Recipe, str]:
    if parent is None:
        begun = "the pretrained ones, with a new head" if task.model.pretrained_sha256 else "newly initialized"
        return recipe, f"The weights are {begun}: scratch has no parent."
    setting = recipe.initialization
    if not isinstance(setting, Auto):
        return recipe, f"The task sets recipe.initialization to {setting.name}."
    result = record.result if record else None
    chosen, reason = resolve_initialization(
        setting,
        normalized=_is_normalized(parent, record),
        train_accuracy=result.train_accuracy if result else None,
        val_accuracy=result.final_accuracy if result else None,
        relative_step=_relative_step(parent, result),
        output_step=_output_step(parent, result),
        pretrained=_is_pretrained(parent),
    )
    return recipe.model_copy(update={"initialization": chosen}), reason


def _needs_falling_rate(parent: Plan, record: RunRecord | None) -> bool:
    """Return whether a run needs a falling rate. With BatchNorm or pretrained weights, a constant rate is enough."""
    if _is_pretrained(parent) or _is_normalized(parent, record):
        return False
    return has_large_steps(_relative_step(parent, record.result if record else None))


def _relative_step(parent: Plan, result: Result | None) -> float | None:
    """Return Adam's step relative to the parent's layer with the smallest weights. None if unknown, or with SGD."""
    step = _step(parent)
    return step / result.weight_scale if step and result and result.weight_scale else None


def _output_step(parent: Plan, result: Result | None) -> float | None:
    """Return the relative change of a perceptron's outputs by a step of Adam. None if unknown, or with SGD."""
    step = _step(parent)
    return step * result.output_change if step and result and result.output_change else None


def _step(parent: Plan) -> float | None:
    """Return the size of Adam's steps. None with SGD, whose steps depend on the gradients."""
    optimizer = parent.task.training.optimizer
    return None if isinstance(optimizer, Sgd) else optimizer.learning_rate


def _is_pretrained(parent: Plan) -> bool:
    return parent.task.model.pretrained_sha256 is not None


def _is_normalized(parent: Plan, record: RunRecord | None) -> bool:
    """Return whether the parent's network has BatchNorm layers, from its record or from its name.

    The name of a factory (`package.module:factory`) says nothing about BatchNorm. Without the record, its network
    counts as a network without BatchNorm. A run then shrinks the parent's weights less, and shrinking them too little
    does less harm than shrinking them too much.
    """
    if record and record.result and record.result.normalised is not None:
        return record.result.normalised
    name = parent.task.model.name
    return ":" not in name and not WITHOUT_BATCHNORM.fullmatch(name)
