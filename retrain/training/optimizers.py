"""Optimisers by their settings."""

from collections.abc import Iterable

import torch
from torch import nn

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
