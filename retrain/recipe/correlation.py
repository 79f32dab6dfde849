"""How far training has led: the correlation of final with initial weights (Ash & Adams, figure 5)."""

from collections.abc import Iterable

import torch
from torch import Tensor


def weight_correlation(initial: Iterable[Tensor], final: Iterable[Tensor]) -> float:
    """Return Pearson's correlation over all weights of two networks of one shape, in [-1, 1]."""
    pair = torch.stack([torch.cat([each.detach().flatten() for each in one]).double() for one in (initial, final)])
    return float(torch.corrcoef(pair)[0, 1])
