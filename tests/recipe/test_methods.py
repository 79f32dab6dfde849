from typing import get_args

import pytest

from retrain.config import Method
from retrain.config.recipe import Cosine, Fresh, MultiStep, NoPenalty, OldNew, Recipe, Uniform, Warm, recipe_for


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(scale=0.25), MultiStep(milestones=(0.3,), factor=0.5)])
@pytest.mark.parametrize(("method", "initialization"), [("scratch", Fresh()), ("naive", Warm())])
def test_scratch_and_naive_differ_only_in_their_start(
    method: Method, initialization: Fresh | Warm, schedule: Cosine | MultiStep
) -> None:
    found = recipe_for(method, Recipe(schedule=schedule, sampling=OldNew()))
    assert found.initialization == initialization
    assert (found.objective, found.sampling) == (NoPenalty(), Uniform())
    assert found.schedule == type(schedule)(**schedule.model_dump() | {"scale": 1.0})


def test_continuous_is_the_tasks_recipe() -> None:
    recipe = Recipe(initialization=Warm(), sampling=OldNew(new=0.3), schedule=MultiStep(scale=0.5))
    assert recipe_for("continuous", recipe) == recipe


def test_every_method_gives_a_recipe_that_a_plan_can_keep() -> None:
    for method in get_args(Method):
        recipe = recipe_for(method, Recipe())
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
