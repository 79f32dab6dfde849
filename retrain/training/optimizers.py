"""Optimisers by their settings."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from retrain.config import Adam, Optimizer


def build(setting: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return a newly started, fused optimiser."""
    if isinstance(setting, Adam):
        return torch.optim.Adam(
            parameters, setting.learning_rate, setting.betas, weight_decay=setting.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        setting.learning_rate,
        setting.momentum,
        weight_decay=setting.weight_decay,
        nesterov=setting.nesterov,
        fused=True,
    )


def start(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser allocate its moments, with gradients and a rate of zero; what they hold is to be overwritten."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's tensors, such as Adam's moments, as `<parameter's position>.<name>`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"{position}.{name}": tensor
        for position, parameter in enumerate(parameters)
        for name, tensor in optimizer.state[parameter].items()
        if isinstance(tensor, Tensor)
    }


@torch.no_grad()
def carry_over(optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Give a new optimiser the moments of another; rows for classes that the other never saw start at zero."""
    start(optimizer)
    for name, tensor in moments(optimizer).items():
        tensor.zero_()
        tensor[tuple(slice(size) for size in kept[name].shape)] = kept[name].to(tensor)
