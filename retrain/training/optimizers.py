"""Build optimizers from their settings, and change gradients before a step as the recipe states."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.sgd import sgd

from retrain.config.optimizers import AdamW, Sgd
from retrain.config.optimizers import Optimizer as Setting
from retrain.config.recipe import Ewc, L2Init, Warm
from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.errors import ModelError, RunError
from retrain.recipe.analysis import fisher_diagonal
from retrain.recipe.initialization import body_parameters, may_grow, zero_gradients
from retrain.recipe.objective import gradient_term
from retrain.records import Plan
from retrain.training.seeds import fresh_network, make_generator, origin_network

Columns = dict[str, list[Tensor]]
"""The optimizer's state by torch's names (`exp_avg`, ...): a tensor for each parameter."""


class Optimizer:
    """An optimizer of parameters. A step leaves parameters without a gradient, and their moments, unchanged."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        setting: Setting,
        remembered: Iterable[str],
        update: Callable[..., None],
    ) -> None:
        self.parameters = list(parameters)
        self.rate = setting.learning_rate
        """Learning rate of the next step."""
        self.columns: Columns = {name: [torch.zeros_like(each) for each in self.parameters] for name in remembered}
        self._update, self._groups = update, _groups(setting, self.parameters)
        self._steps: Tensor | None = None

    def count_steps(self) -> None:
        """Count the steps of each parameter in the column `step`. The counts are views of one tensor, for speed."""
        self._steps = torch.zeros(len(self.parameters), device=self.parameters[0].device)
        self.columns["step"] = list(self._steps.unbind())

    @torch.no_grad()
    def step(self, rate: float | Tensor | None = None) -> None:
        """Do one step. `rate` is a number, or a float32 scalar on the parameters' device."""
        gradients = [parameter.grad for parameter in self.parameters]
        self._add_step([position for position, gradient in enumerate(gradients) if gradient is not None])
        for decay, positions in self._groups:
            used = [position for position in positions if gradients[position] is not None]
            if not used:
                continue
            parameters = [self.parameters[position] for position in used]
            columns = {name: [column[position] for position in used] for name, column in self.columns.items()}
            used_gradients = [gradients[position] for position in used]
            self._update(
                parameters, used_gradients, columns, lr=self.rate if rate is None else rate, weight_decay=decay
            )

    def _add_step(self, used: Sequence[int]) -> None:
        """Count a step of the parameters at these positions."""
        if self._steps is None or not used:
            return
        if len(used) == len(self._steps):
            self._steps.add_(1)
        else:
            torch._foreach_add_([self.columns["step"][position] for position in used], 1)

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def build_optimizer(setting: Setting, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return a new fused optimizer. Its moments are zero."""
    if isinstance(setting, Sgd):
        remembered = ("momentum_buffer",) if setting.momentum else ()
        return Optimizer(parameters, setting, remembered, partial(_sgd, setting=setting))
    decoupled = isinstance(setting, AdamW)
    update = partial(_adam, betas=setting.betas, decoupled=decoupled)
    optimizer = Optimizer(parameters, setting, ("exp_avg", "exp_avg_sq"), update)
    optimizer.count_steps()
    return optimizer


def _groups(setting: Setting, parameters: Iterable[Tensor]) -> list[tuple[float, list[int]]]:
    """Group the parameters by weight decay and dtype. Return each group's decay and the positions of its parameters."""
    groups: dict[tuple[float, torch.dtype], list[int]] = {}
    for position, parameter in enumerate(parameters):
        decays = setting.decayed == "all" or parameter.ndim > 1
        groups.setdefault((setting.weight_decay if decays else 0.0, parameter.dtype), []).append(position)
    return [(decay, positions) for (decay, _), positions in groups.items()]


def _adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    columns: Columns,
    *,
    lr: float | Tensor,
    weight_decay: float,
    betas: tuple[float, float],
    decoupled: bool,
) -> None:
    """Step like `torch.optim.Adam(..., fused=True)`, or like `AdamW` if weight decay is decoupled.

    torch's functional interface would sort the tensors and count the steps one by one. This would take 0.2 ms per step.
    """
    update = torch._fused_adamw_ if decoupled else torch._fused_adam_
    update(
        parameters,
        gradients,
        columns["exp_avg"],
        columns["exp_avg_sq"],
        [],
        columns["step"],
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )


def _sgd(
    parameters: list[Tensor],
    gradients: list[Tensor],
    columns: Columns,
    *,
    lr: float | Tensor,
    weight_decay: float,
    setting: Sgd,
) -> None:
    """Step like `torch.optim.SGD(..., fused=True)`. Momentum starts at zero, so the first step uses the gradient."""
    sgd(
        parameters,
        gradients,
        [*columns.get("momentum_buffer", [None] * len(parameters))],
        fused=True,
        weight_decay=weight_decay,
        momentum=setting.momentum,
        lr=lr,
        dampening=0,
        nesterov=setting.nesterov,
        maximize=False,
    )


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors, such as Adam's moments, named `<parameter's position>.<name>`."""
    return {
        f"{position}.{name}": tensor
        for name, column in optimizer.columns.items()
        for position, tensor in enumerate(column)
    }


@torch.no_grad()
def load_moments(optimizer: Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Copy the moments of another optimizer into a new optimizer. Rows for new classes start at zero.

    Raises `RunError` if the moments belong to another kind of optimizer or to another network.
    """
    for name, tensor in moments(optimizer).items():
        if name not in kept or not may_grow(kept[name].shape, tensor.shape):
            raise RunError(
                f"the parent's optimizer state does not match at {name}: it belongs to another optimizer or "
                "network; set training.optimizer_state to reset"
            )
        tensor[tuple(slice(size) for size in kept[name].shape)] = kept[name].to(tensor)


def gradient_changes(
    plan: Plan, network: nn.Module, train: Samples, pretrained: Mapping[str, Tensor] | None = None
) -> Callable[[int], None]:
    """Return a function to call in iteration i, between `backward()` and `step()`.

    It clips the loss's gradient, adds the penalty's gradient, and zeroes all gradients but the head's while only the
    head is trained. The network must have the weights at which the run starts. Raises `ModelError` if the objective is
    EWC (elastic weight consolidation) and the parent was trained on none of the samples.
    """
    trained = trained_parameters(network)
    fisher = _fisher_information(plan, network, train)
    anchor = _anchor_weights(plan, trained, pretrained)
    add_penalty = gradient_term(plan.recipe.objective, list(trained.values()), anchor, fisher)
    body, until = body_parameters(network), body_frozen_until(plan)

    limit = plan.task.training.clip_norm
    clip = partial(clip_grad_norm_, list(trained.values()), limit) if limit else lambda: None

    def change(iteration: int) -> None:
        clip()
        add_penalty()
        if iteration < until:
            zero_gradients(body)

    return change


def body_frozen_until(plan: Plan) -> float:
    """Return the iteration until which only the head is trained."""
    start = plan.recipe.initialization
    return start.head_first * plan.iterations if isinstance(start, Warm) else 0


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _fisher_information(plan: Plan, network: nn.Module, train: Samples) -> list[Tensor] | None:
    """Return EWC's Fisher information at the start of the run, on some of the old samples."""
    objective = plan.recipe.objective
    if not isinstance(objective, Ewc):
        return None
    old = (train.drop < plan.known).cpu().nonzero().squeeze(1)
    if not len(old):
        raise ModelError(
            "recipe.objective: ewc needs samples that the parent was trained on, and there are none: use another "
            "objective"
        )
    chosen = old[torch.randperm(len(old), generator=make_generator(plan.seed, "fisher"))[: objective.samples]]
    chosen = chosen.to(train.labels.device)
    images = Normalize(plan.task.data)(train.pixels(chosen))
    return list(fisher_diagonal(network, images, train.labels[chosen]).values())


def _anchor_weights(
    plan: Plan, trained: Mapping[str, Tensor], pretrained: Mapping[str, Tensor] | None
) -> list[Tensor] | None:
    """Return the weights that L2-init (theta_0, Verwimp et al., eq. 5) and EWC pull to.

    They have the device and memory format of the trained weights.
    """
    match plan.recipe.objective:
        case L2Init(anchor="start") | Ewc():
            anchor: Mapping[str, Tensor] = trained
        case L2Init(anchor="fresh"):
            anchor = fresh_network(plan).state_dict() | dict(pretrained or {})
        case L2Init(anchor="origin"):
            anchor = origin_network(plan, pretrained).state_dict()
        case _:
            return None
    return [torch.empty_like(parameter).copy_(anchor[name].detach()) for name, parameter in trained.items()]
