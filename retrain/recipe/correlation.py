"""How alike two networks are, in their weights (Ash & Adams, figure 5) or in what they find easy."""

from collections.abc import Iterable

import torch
from torch import Tensor


def weight_correlation(initial: Iterable[Tensor], final: Iterable[Tensor]) -> float:
    """Return Pearson's correlation over all weights of two networks of one shape, in [-1, 1]."""
    pair = torch.stack([torch.cat([each.detach().flatten() for each in one]).double() for one in (initial, final)])
    return float(torch.corrcoef(pair)[0, 1])


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation of two rows of figures, each [N], equal figures sharing their mean rank."""
    return float(torch.corrcoef(torch.stack([_ranks(one), _ranks(other)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    ordered = values.sort().values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)) / 2
