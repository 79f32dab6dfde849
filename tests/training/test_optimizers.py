"""Optimisers: torch's own, bit for bit."""

from functools import partial

import pytest
import torch
from torch import nn

from retrain.config.task import Adam, Optimizer, Sgd
from retrain.training.optimizers import build_optimizer

THEIRS = partial(torch.optim.SGD, fused=True)
CASES = [
    (Adam(learning_rate=0.01), partial(torch.optim.Adam, lr=0.01, fused=True)),
    (
        Adam(learning_rate=0.1, betas=(0.5, 0.9), weight_decay=0.1),
        partial(torch.optim.Adam, lr=0.1, betas=(0.5, 0.9), weight_decay=0.1, fused=True),
    ),
    (Sgd(learning_rate=0.1), partial(THEIRS, lr=0.1, momentum=0.9)),
    (Sgd(learning_rate=0.1, momentum=0, weight_decay=0.1), partial(THEIRS, lr=0.1, weight_decay=0.1)),
    (Sgd(learning_rate=0.1, nesterov=True), partial(THEIRS, lr=0.1, momentum=0.9, nesterov=True)),
]


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    filters = torch.randn(4, 3, 3, 3, generator=random).to(memory_format=torch.channels_last)
    return [nn.Parameter(filters), nn.Parameter(torch.randn(7, 5, generator=random)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("setting", "make"), CASES, ids=["adam", "adam with decay", "momentum", "sgd with decay", "nesterov"]
)
def test_steps_are_those_of_torchs_own_optimiser_to_the_bit(
    setting: Optimizer, make: "partial[torch.optim.Optimizer]"
) -> None:
    """The last parameter has no gradient."""
    ours, theirs = parameters(), parameters()
    optimizer, expected = build_optimizer(setting, ours), make(theirs)
    random = torch.Generator().manual_seed(1)
    for step in range(5):
        optimizer.zero_grad()
        expected.zero_grad()
        for mine, their in list(zip(ours, theirs, strict=True))[:2]:
            mine.grad = torch.randn(mine.shape, generator=random).to(mine)
            their.grad = mine.grad.clone()
        optimizer.rate = expected.param_groups[0]["lr"] = setting.learning_rate / (1 + step)
        optimizer.step()
        expected.step()
        assert all(torch.equal(mine, their) for mine, their in zip(ours, theirs, strict=True))
