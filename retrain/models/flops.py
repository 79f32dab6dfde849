"""Count the floating-point operations for one image by torch's rules: only matrix products and convolutions count."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retrain.config.frame import Shape, image_shape
from retrain.models.resnets import BasicBlock, Bottleneck, ResNet


class Flops(NamedTuple):
    """Floating-point operations for one image."""

    training: float
    """Forward and backward."""
    evaluation: float
    """Only the forward pass."""


PRODUCTS = (nn.Conv2d, nn.Linear)

KNOWN = {
    *PRODUCTS,
    *(nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.Dropout, nn.Flatten, nn.Identity, nn.MaxPool2d, nn.ReLU, nn.Tanh),
    *(nn.Sequential, ResNet, BasicBlock, Bottleneck),
}
"""Modules whose operations `_by_modules` can count: those in `PRODUCTS`, and modules that compute no products."""


def count_flops(network: nn.Module, image_size: Shape) -> Flops:
    """Return a network's operations for one image. The network is not changed.

    Torch's own counter takes longer to import than torch itself. It is used only for networks with modules that are
    not in `KNOWN`.
    """
    known = all(type(module) in KNOWN for module in network.modules())
    with torch.random.fork_rng(devices=[]):
        return (_by_modules if known else _by_torch)(copy.deepcopy(network).train(), image_size)


def _by_modules(network: nn.Module, image_size: Shape) -> Flops:
    """Return the operations for one image. Each product counts once more for every factor that has a gradient."""
    forward, backward = 0, 0

    def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal forward, backward
        weight = module.get_parameter("weight")
        once = 2 * output.numel() * weight[0].numel()
        forward += once
        backward += once * (weight.requires_grad + inputs[0].requires_grad)

    for module in network.modules():
        if isinstance(module, PRODUCTS):
            module.register_forward_hook(add)
    network(torch.zeros(2, *image_shape(image_size)))
    return Flops((forward + backward) / 2, forward / 2)


def _by_torch(network: nn.Module, image_size: Shape) -> Flops:
    """Return the operations for one image by torch's counter.

    On torch's `meta` device, nothing is computed. A network that needs values there, or that makes tensors on the CPU,
    raises an error of any type. It is then counted on the CPU.
    """
    try:
        return _on_device(copy.deepcopy(network).to("meta"), image_size)
    except Exception:
        return _on_device(network, image_size)


def _on_device(network: nn.Module, image_size: Shape) -> Flops:
    """Return the operations for one image, counted on the network's device."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as forward:
        logits = network(torch.zeros(2, *image_shape(image_size), device=device))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    evaluation = forward.get_total_flops() / 2
    return Flops(evaluation + backward.get_total_flops() / 2, evaluation)
