"""Tests of the count of floating-point operations (FLOPs). It must equal the count of torch's slower counter."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from retrain.config.task import Model
from retrain.models import factory
from retrain.models.flops import KNOWN, Flops, count_flops
from retrain.models.resnets import RESNETS

BUILT = [
    *(Model(name=name, stem="small", options={"width": 8}) for name in RESNETS),
    *(Model(name=name, stem="standard") for name in ("resnet18", "resnet50")),
    *(Model(name=name) for name in ("mlp", "logistic")),
]


class Product(nn.Module):
    """A network that multiplies by a matrix without a module for it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.weight


class Conditional(Product):
    """A network that needs the values of its images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if images.isfinite().all() else images


class Constant(Product):
    """A network that makes a tensor on the CPU."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + torch.ones(1, 3, 1, 1))


def torchs(network: nn.Module, image_size: int) -> Flops:
    """Return the operations for one image that torch counts while it computes a batch of four."""
    network = copy.deepcopy(network).train()
    with FlopCounterMode(display=False) as forward:
        logits = network(torch.zeros(4, 3, image_size, image_size))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    evaluation = forward.get_total_flops() / 4
    return Flops(evaluation + backward.get_total_flops() / 4, evaluation)


@pytest.mark.parametrize("model", BUILT, ids=lambda model: f"{model.name} {model.stem}")
@pytest.mark.parametrize("image_size", [32, 45])
def test_flops_by_modules_equal_torchs_count(model: Model, image_size: int) -> None:
    network = factory.build_network(model, 10, image_size, seed=0)
    assert {type(module) for module in network.modules()} <= KNOWN
    assert count_flops(network, image_size) == torchs(network, image_size)


def test_products_of_unknown_modules_are_counted() -> None:
    network = Product()
    assert count_flops(network, 8) == torchs(network, 8) == (2 * 2 * 3 * 4, 2 * 3 * 4)


@pytest.mark.parametrize("kind", [Conditional, Constant])
def test_network_that_needs_values_is_counted_on_the_cpu(kind: type[Product]) -> None:
    assert count_flops(kind(), 8) == count_flops(Product(), 8)


def test_frozen_parameters_cost_no_gradient_flops() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    network[0].requires_grad_(False)
    assert count_flops(network, 8) == torchs(network, 8)


def test_flops_count_changes_neither_network_nor_random_state() -> None:
    network = factory.build_network(Model(), 10, 8, seed=0)
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    count_flops(network, 8)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in network.modules())
