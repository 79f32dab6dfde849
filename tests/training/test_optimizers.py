"""Optimizers take the same steps as torch's optimizers, bit for bit."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from retrain.config.optimizers import Adam, AdamW, Optimizer, Sgd
from retrain.training.optimizers import build_optimizer

TORCH_SGD = partial(torch.optim.SGD, fused=True)
CASES = [
    (Adam(learning_rate=0.01), partial(torch.optim.Adam, lr=0.01, fused=True)),
    (
        Adam(learning_rate=0.1, betas=(0.5, 0.9), weight_decay=0.1),
        partial(torch.optim.Adam, lr=0.1, betas=(0.5, 0.9), weight_decay=0.1, fused=True),
    ),
    (
        AdamW(learning_rate=0.1, weight_decay=0.2, decayed="all"),
        partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2, fused=True),
    ),
    (Sgd(learning_rate=0.1), partial(TORCH_SGD, lr=0.1, momentum=0.9)),
    (Sgd(learning_rate=0.1, momentum=0, weight_decay=0.1), partial(TORCH_SGD, lr=0.1, weight_decay=0.1)),
    (Sgd(learning_rate=0.1, nesterov=True), partial(TORCH_SGD, lr=0.1, momentum=0.9, nesterov=True)),
]


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    filters = torch.randn(4, 3, 3, 3, generator=random).to(memory_format=torch.channels_last)
    return [nn.Parameter(filters), nn.Parameter(torch.randn(7, 5, generator=random)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("setting", "make"), CASES, ids=["adam", "adam with decay", "adamw", "momentum", "sgd with decay", "nesterov"]
)
def test_steps_equal_torchs_optimizer_bit_for_bit(setting: Optimizer, make: "partial[torch.optim.Optimizer]") -> None:
    """The last parameter has no gradient."""
    tested, reference = parameters(), parameters()
    optimizer, expected = build_optimizer(setting, tested), make(reference)
    random = torch.Generator().manual_seed(1)
    for step in range(5):
        optimizer.zero_grad()
        expected.zero_grad()
        for one, other in list(zip(tested, reference, strict=True))[:2]:
            one.grad = torch.randn(one.shape, generator=random).to(one)
            other.grad = one.grad.clone()
        optimizer.rate = expected.param_groups[0]["lr"] = setting.learning_rate / (1 + step)
        optimizer.step()
        expected.step()
        assert all(torch.equal(one, other) for one, other in zip(tested, reference, strict=True))


@pytest.mark.parametrize(
    ("setting", "kind", "extra"),
    [
        (AdamW(learning_rate=0.1, weight_decay=0.2), torch.optim.AdamW, {}),
        (Adam(learning_rate=0.1, weight_decay=0.2, decayed="matrices"), torch.optim.Adam, {}),
        (Sgd(learning_rate=0.1, weight_decay=0.2, decayed="matrices"), torch.optim.SGD, {"momentum": 0.9}),
    ],
    ids=["adamw", "adam", "sgd"],
)
def test_biases_and_norms_decay_only_if_requested(
    setting: Optimizer, kind: Callable[..., torch.optim.Optimizer], extra: dict[str, float]
) -> None:
    tested, reference = parameters(), parameters()
    groups = [{"params": reference[:2], "weight_decay": 0.2}, {"params": reference[2:], "weight_decay": 0.0}]
    optimizer, expected = build_optimizer(setting, tested), kind(groups, lr=0.1, fused=True, **extra)
    for step in range(3):
        for one, other in zip(tested, reference, strict=True):
            one.grad, other.grad = torch.full_like(one, step - 0.5), torch.full_like(other, step - 0.5)
        optimizer.step()
        expected.step()
    assert all(torch.equal(one, other) for one, other in zip(tested, reference, strict=True))


def test_mixed_types_and_missing_gradients_step_as_in_torch() -> None:
    """Check a parameter of another type, and steps in which all, some or none of the parameters have a gradient."""

    def mixed() -> list[nn.Parameter]:
        return [*parameters(), nn.Parameter(torch.ones(4, 2, dtype=torch.float64)), nn.Parameter(torch.ones(2))]

    tested, reference = mixed(), mixed()
    matrices, vectors = ([each for each in reference if (each.ndim > 1) == wanted] for wanted in (True, False))
    optimizer = build_optimizer(AdamW(learning_rate=0.1, weight_decay=0.2), tested)
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}]
    expected = torch.optim.AdamW(groups, lr=0.1, fused=True)
    for used in (5, 2, 4, 0, 5):
        optimizer.zero_grad()
        expected.zero_grad()
        for one, other in list(zip(tested, reference, strict=True))[:used]:
            one.grad, other.grad = torch.full_like(one, used - 2.5), torch.full_like(other, used - 2.5)
        optimizer.step()
        expected.step()
        assert all(torch.equal(one, other) for one, other in zip(tested, reference, strict=True))
    assert [step.item() for step in optimizer.columns["step"]] == [4, 4, 3, 3, 2]
