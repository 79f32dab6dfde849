"""Training the last layer alone, or first (Ash & Adams, Table 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def all_but_last(network: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of all modules but the last one that has any."""
    owners = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]
    last = {id(parameter) for parameter in owners[-1].parameters(recurse=False)}
    return [each for each in network.parameters() if each.requires_grad and id(each) not in last]


@torch.no_grad()
def hold(parameters: Sequence[Tensor]) -> None:
    """Set the parameters' gradients to zero, in place.

    An optimiser without weight decay that has seen no other gradient then leaves them as they are.
    """
    torch._foreach_zero_([each.grad for each in parameters if each.grad is not None])
