"""From a plan, data and a parent to everything that the loop needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retrain import models
from retrain.data.augment import Augment, Normalize
from retrain.data.resident import Samples
from retrain.recipe.initialization import initialize
from retrain.recipe.learning_speed import Counters
from retrain.recipe.objective import gradient_term
from retrain.recipe.sampling import keep_probability
from retrain.recipe.settings import L2Init, Warm
from retrain.records import Origin, Plan
from retrain.training import optimizers
from retrain.training.passes import Passes
from retrain.training.progress import Progress
from retrain.training.seeds import derive, generator


@dataclass
class Parent:
    """What a run takes over: the parent's weights, and its counters over the training samples of this dataset."""

    weights: Mapping[str, Tensor]
    counters: Counters


@dataclass
class Run:
    """Everything that one training needs, on its device, ready for the first step."""

    plan: Plan
    train: Samples
    val: Samples
    network: nn.Module
    optimizer: torch.optim.Optimizer
    add_penalty: Callable[[], None]
    """Adds the gradient of the objective's penalty to the parameters' gradients."""
    passes: Passes
    augment: Augment
    normalize: Normalize
    augmentation: torch.Generator
    """Where random crops and flips come from."""
    val_order: Tensor
    """A random order of val, the same for every run on this dataset and seed."""
    counters: Counters
    """This run's own learning-speed counters."""
    loss_sum: Tensor
    """Sum of the iterations' mean losses since the last evaluation, float64 scalar on the device."""
    progress: Progress


def set_up(plan: Plan, train: Samples, val: Samples, parent: Parent | None) -> Run:
    """Build a run as its plan says; nothing has been trained yet.

    Seeds torch's own random numbers, which layers such as dropout draw from. Raises `ModelError` if the parent's
    weights do not fit the plan's network.
    """
    device, task = train.images.device, plan.task
    network = _fresh(plan)
    initialize(plan.recipe.initialization, network, parent.weights if parent else None)
    network = models.place(network, device).train()
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    parameters = list(trained.values())
    torch.manual_seed(derive(plan.seed, "layers"))
    old = train.drop < plan.known
    known = parent.counters if parent else Counters.zeros(len(train.labels), torch.device("cpu"))
    keep = keep_probability(plan.recipe.sampling, known, old.cpu())
    return Run(
        plan=plan,
        train=train,
        val=val,
        network=network,
        optimizer=optimizers.build(task.training.optimizer, parameters),
        add_penalty=gradient_term(plan.recipe.objective, parameters, _anchor(plan, trained)),
        passes=Passes(keep, len(train.labels), task.training.batch_size, plan.seed, device),
        augment=Augment(task.data, task.training.bf16),
        normalize=Normalize(task.data, task.training.bf16),
        augmentation=generator(plan.seed, "augmentation", device=device),
        val_order=torch.randperm(len(val.labels), generator=generator(plan.seed, "val")).to(device),
        counters=Counters.zeros(len(train.labels), device),
        loss_sum=torch.zeros((), dtype=torch.float64, device=device),
        progress=Progress(),
    )


def _fresh(plan: Plan) -> nn.Module:
    return _initialized(plan, Origin(seed=plan.seed, drops=len(plan.dataset.drops), classes=len(plan.dataset.classes)))


def _initialized(plan: Plan, origin: Origin) -> nn.Module:
    """The network as a run that starts a lineage initialises it; another number of drops, other weights."""
    seed = derive(origin.seed, "weights", origin.drops)
    return models.build(plan.task.model, origin.classes, plan.task.data.image_size, seed)


def _anchor(plan: Plan, trained: Mapping[str, Tensor]) -> list[Tensor] | None:
    """theta_0 of L2-init (Verwimp et al., eq. 5), on the device and in the memory format of what is trained."""
    objective = plan.recipe.objective
    if not isinstance(objective, L2Init):
        return None
    match objective.anchor:
        case "start":
            anchor = trained
        case "fresh":
            anchor = _fresh(plan).state_dict()
        case "origin":
            anchor = _origin(plan).state_dict()
    return [torch.empty_like(parameter).copy_(anchor[name].detach()) for name, parameter in trained.items()]


def _origin(plan: Plan) -> nn.Module:
    """The lineage's first initialization, with newly initialised rows for the classes that have come since."""
    grown = _fresh(plan)
    initialize(Warm(), grown, _initialized(plan, plan.origin).state_dict())
    return grown
