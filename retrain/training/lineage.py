"""The networks that a lineage of models begins with: always the same for the same plan."""

from torch import nn

from retrain import models
from retrain.recipe.initialization import initialize
from retrain.recipe.settings import Warm
from retrain.records import Origin, Plan
from retrain.training.seeds import derive


def fresh(plan: Plan) -> nn.Module:
    """Return the network as this run initialises it anew."""
    return _initialized(plan, Origin(seed=plan.seed, drops=len(plan.dataset.drops), classes=len(plan.dataset.classes)))


def origin(plan: Plan) -> nn.Module:
    """Return the lineage's first initialization, with newly initialised rows for the classes that have come since."""
    grown = fresh(plan)
    initialize(Warm(), grown, _initialized(plan, plan.origin).state_dict())
    return grown


def _initialized(plan: Plan, origin: Origin) -> nn.Module:
    """The network as a run that starts a lineage initialises it; another number of drops, other weights."""
    seed = derive(origin.seed, "weights", origin.drops)
    return models.build(plan.task.model, origin.classes, plan.task.data.image_size, seed)
