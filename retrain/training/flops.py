"""What an iteration costs in floating-point operations."""

import copy
from typing import NamedTuple

import torch
from torch import nn


class Flops(NamedTuple):
    """Floating-point operations for one image."""

    training: float
    """Forward and backward."""
    evaluation: float
    """Forward alone."""


def count(network: nn.Module, image_size: int) -> Flops:
    """Count a network's operations on shapes alone: nothing is computed, and the network is left as it was."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and nothing is counted before a run's end

    with torch.random.fork_rng(devices=[]):
        shapes = copy.deepcopy(network).to("meta").train()
        images = torch.empty(2, 3, image_size, image_size, device="meta")
        with FlopCounterMode(display=False) as forward:
            logits = shapes(images)
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    evaluation = forward.get_total_flops() / 2
    return Flops(evaluation + backward.get_total_flops() / 2, evaluation)
