"""The initialization of a run depends on its method, on the parent's architecture and on the parent's fit."""

import subprocess
import sys
from typing import get_args

import pytest

from retrain.config import Method
from retrain.config.recipe import (
    Auto,
    Cosine,
    Fresh,
    MultiStep,
    NoPenalty,
    OldNew,
    Recipe,
    ShrinkPerturb,
    Uniform,
    Warm,
    recipe_for,
)
from retrain.recipe.start import resolve_initialization

SHRUNK = ShrinkPerturb(least_norm=0.4, new_rows="class_means")
PARTLY = ShrinkPerturb(alpha=0.7, least_norm=0.7, rate=1.75, new_rows="class_means")
KEPT = ShrinkPerturb(alpha=1.0, least_norm=1.0, rate=2.5, new_rows="class_means")
GENTLE = ShrinkPerturb(alpha=0.8, least_norm=0.8, new_rows="class_means")
RAISED = ShrinkPerturb(alpha=0.8, least_norm=0.8, rate=2.5, new_rows="class_means")


@pytest.mark.parametrize(
    ("normalized", "train", "val", "start", "reason"),
    [
        (True, 0.99, 0.30, SHRUNK, "the parent is fitted, with a training error 0.01 times"),
        (True, 0.87, 0.30, SHRUNK, "the parent is fitted, with a training error 0.19 times"),
        (True, 0.875, 0.375, SHRUNK, "the parent is fitted, with a training error 0.20 times"),
        (True, 0.72, 0.30, PARTLY, "the parent is partly fitted, with a training error 0.40 times"),
        (True, 0.57, 0.30, KEPT, "the parent is under-fitted, with a training error 0.61 times"),
        (True, 0.30, 0.35, KEPT, "the parent is under-fitted, with a training error 1.08 times"),
        (True, 0.985, 0.99, SHRUNK, "the parent is fitted, with a training error 1.50 times"),
        (True, 0.99, 1.0, SHRUNK, "the parent is fitted, with a training error of 1.00% and no validation error"),
        (True, None, 0.30, SHRUNK, "the parent's training accuracy is unknown"),
        (True, 0.99, None, SHRUNK, "the parent's training accuracy is unknown"),
        (False, 0.99, 0.30, RAISED, "The learning rate is multiplied by 2.5."),
        (False, None, None, RAISED, "without BatchNorm"),
    ],
)
def test_initialization_follows_from_the_parent(
    normalized: bool, train: float | None, val: float | None, start: ShrinkPerturb, reason: str
) -> None:
    resolved, why = resolve_initialization(Auto(), normalized, train, val, relative_step=0.02)
    assert resolved == start
    assert reason in why
    assert why.endswith(".")


@pytest.mark.parametrize(
    ("relative_step", "rate"),
    [(None, 1.0), (0.02, 2.5), (0.024, 2.5), (0.03, 2.0), (0.06, 1.0), (0.08, 0.75), (0.24, 0.25), (9.0, 0.25)],
)
def test_initialization_sets_the_rate_by_the_relative_step(relative_step: float | None, rate: float) -> None:
    """The relative step is the learning rate divided by the size of the smallest layer's weights.

    A perceptron on 28x28 pixels has small weights. Steps at 2.5 times the learning rate would destroy them.
    """
    start, why = resolve_initialization(Auto(), False, 0.99, 0.3, relative_step)
    assert start == GENTLE.model_copy(update={"rate": rate})
    assert ("The learning rate is multiplied" in why) == (rate != 1)
    assert resolve_initialization(Auto(), True, 0.99, 0.3, relative_step)[0] == SHRUNK, (
        "with BatchNorm, the relative step has no effect"
    )


@pytest.mark.parametrize(
    ("output_step", "rate"), [(0.1, 8.0), (0.4375, 8.0), (0.5, 7.0), (0.875, 4.0), (3.5, 1.0), (7.0, 0.5), (99.0, 0.25)]
)
def test_rate_of_a_perceptron_follows_from_its_output_step(output_step: float, rate: float) -> None:
    """A step changes the outputs of a perceptron with few inputs less, so its learning rate is higher."""
    start, _ = resolve_initialization(Auto(), False, 0.99, 0.3, relative_step=0.02, output_step=output_step)
    assert start == GENTLE.model_copy(update={"rate": rate})


@pytest.mark.parametrize(("train", "alpha"), [(0.99, 0.4), (0.72, 0.6), (0.3, 0.8)])
def test_initialization_under_sgd_keeps_the_learning_rate(train: float, alpha: float) -> None:
    start, why = resolve_initialization(Auto(), True, train, 0.3, relative_step=None)
    assert start == ShrinkPerturb(alpha=alpha, least_norm=alpha, new_rows="class_means")
    assert "learning rate" not in why


@pytest.mark.parametrize(("alpha", "rate"), [(0.0, 2.5), (0.2, 2.5), (0.4, 2.5), (0.5, 2.0), (1.0, 1.0)])
def test_run_from_an_under_fitted_parent_keeps_the_relative_step(alpha: float, rate: float) -> None:
    start, why = resolve_initialization(Auto(alpha=alpha), True, 0.3, 0.35, relative_step=0.02)
    assert start == ShrinkPerturb(alpha=1.0, least_norm=1.0, rate=rate, new_rows="class_means")
    assert "The parent's weights are not shrunk: the parent is under-fitted" in why


def test_auto_initialization_keeps_its_other_settings() -> None:
    auto = Auto(alpha=0.6, beta=0.01, head_rows="fresh")
    assert resolve_initialization(auto, True, None, None)[0] == ShrinkPerturb(alpha=0.6, beta=0.01, least_norm=0.6)
    raised = ShrinkPerturb(alpha=0.8, beta=0.01, rate=2.5, least_norm=0.8)
    assert resolve_initialization(auto, False, None, None, relative_step=0.01)[0] == raised


def test_start_is_chosen_without_torch() -> None:
    code = "import sys, retrain.recipe.start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(scale=0.25), MultiStep(milestones=(0.3,), factor=0.5)])
@pytest.mark.parametrize(("method", "initialization"), [("scratch", Fresh()), ("naive", Warm())])
def test_scratch_and_naive_differ_only_in_their_start(
    method: Method, initialization: Fresh | Warm, schedule: Cosine | MultiStep
) -> None:
    found = recipe_for(method, Recipe(schedule=schedule, sampling=OldNew()))
    assert found.initialization == initialization
    assert (found.objective, found.sampling) == (NoPenalty(), Uniform())
    assert found.schedule == type(schedule)(**schedule.model_dump() | {"scale": 1.0})


def test_continuous_method_uses_the_tasks_recipe() -> None:
    recipe = Recipe(initialization=Warm(), sampling=OldNew(new=0.3), schedule=MultiStep(scale=0.5))
    assert recipe_for("continuous", recipe) == recipe


def test_every_method_gives_a_recipe_that_a_plan_can_store() -> None:
    for method in get_args(Method):
        recipe = recipe_for(method, Recipe())
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
