"""Methods: each is a recipe, a choice in all four aspects (Verwimp et al., section 3)."""

from retrain.recipe.settings import Fresh, Initialization, NoPenalty, Recipe, Uniform, Warm
from retrain.words import Method


def recipe_of(method: Method, recipe: Recipe) -> Recipe:
    """Return the method's recipe, given the task's own.

    `scratch` and `naive` change nothing but where the weights start, and run the task's kind of schedule at full
    length; `continuous` is the task's recipe.
    """
    match method:
        case "scratch":
            return _plain(Fresh(), recipe)
        case "naive":
            return _plain(Warm(), recipe)
        case "continuous":
            return recipe


def _plain(initialization: Initialization, recipe: Recipe) -> Recipe:
    return Recipe(
        initialization=initialization,
        objective=NoPenalty(),
        sampling=Uniform(),
        schedule=recipe.schedule.model_copy(update={"scale": 1.0}),
    )
