"""What a recipe does to gradients between `backward()` and `step()`."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.errors import ModelError
from retrain.recipe.last_layer import all_but_last, hold
from retrain.recipe.objective import gradient_term
from retrain.recipe.sample_gradients import fisher_diagonal
from retrain.recipe.settings import Ewc, L2Init, Warm
from retrain.records import Plan
from retrain.training.lineage import fresh, origin
from retrain.training.seeds import generator


def gradient_changes(plan: Plan, network: nn.Module, train: Samples) -> Callable[[int], None]:
    """Return what to call in iteration i: it adds the penalty's gradient, and holds all but the last layer while that
    alone is trained.

    The network must be where the run starts. Raises `ModelError` if EWC has no old data.
    """
    trained, start = trained_parameters(network), plan.recipe.initialization
    fisher = _fisher(plan, network, train)
    add_penalty = gradient_term(plan.recipe.objective, list(trained.values()), _anchor(plan, trained), fisher)
    held = all_but_last(network)
    until = start.head_first * plan.iterations if isinstance(start, Warm) else 0

    def change(iteration: int) -> None:
        add_penalty()
        if iteration < until:
            hold(held)

    return change


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _fisher(plan: Plan, network: nn.Module, train: Samples) -> list[Tensor] | None:
    """The Fisher information of EWC where the run starts, on some of the old samples."""
    objective = plan.recipe.objective
    if not isinstance(objective, Ewc):
        return None
    old = (train.drop < plan.known).cpu().nonzero().squeeze(1)
    if not len(old):
        raise ModelError("the objective ewc needs old data and there is none; use another")
    chosen = old[torch.randperm(len(old), generator=generator(plan.seed, "fisher"))[: objective.samples]]
    chosen = chosen.to(train.labels.device)
    images = Normalize(plan.task.data)(train.pixels(chosen))
    return list(fisher_diagonal(network, images, train.labels[chosen]).values())


def _anchor(plan: Plan, trained: Mapping[str, Tensor]) -> list[Tensor] | None:
    """What L2-init (theta_0, Verwimp et al., eq. 5) and EWC pull to, as the trained weights are placed and laid out."""
    match plan.recipe.objective:
        case L2Init(anchor="start") | Ewc():
            anchor: Mapping[str, Tensor] = trained
        case L2Init(anchor="fresh"):
            anchor = fresh(plan).state_dict()
        case L2Init(anchor="origin"):
            anchor = origin(plan).state_dict()
        case _:
            return None
    return [torch.empty_like(parameter).copy_(anchor[name].detach()) for name, parameter in trained.items()]
