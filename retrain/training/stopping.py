"""When evaluation may stop early, and when a run has reached its target.

A subset of val may say "not yet"; only the whole of it says "reached".
"""

import math
from collections.abc import Iterator

import torch

from retrain.records import Target

LOWEST_LEVEL = 99.0
"""From this percentage of the baseline's accuracy on, curves are exact on the whole of val: L_99 is read there."""

RISK = 1e-3
"""Largest probability with which an evaluation gives up wrongly."""

EARLY_RISK = 0.5
"""The same for each look of its own, early in a run: it gives up if what it has seen is below what is needed."""

FIRST, GROWTH = 128, 1.5
"""Samples of the first look, and by how much each look is larger than the one before."""


def subset_ends(total: int) -> Iterator[int]:
    """Yield after how many of `total` samples to ask whether the rest can matter; at last, all of them."""
    size = FIRST
    while size < total:
        yield size
        size = math.ceil(size * GROWTH)
    yield total


def tail_probability(correct: int, seen: int, enough: int, total: int) -> float:
    """Return how likely at most `correct` of `seen` samples are right, where `enough` of all `total` are.

    The samples are drawn without replacement: the hypergeometric distribution. Where this is `risk` at most, giving up
    is wrong with probability `risk` at most, whatever the network: a better one fails more rarely still.
    """
    least, most = max(0, seen - (total - enough)), min(correct, enough)
    if most < least:
        return 0.0
    right = torch.arange(least, most + 1, dtype=torch.float64)
    logs = _ways(enough, right) + _ways(total - enough, seen - right) - _ways(total, torch.tensor(float(seen)))
    return float(logs.exp().sum())


def _ways(total: int, chosen: torch.Tensor) -> torch.Tensor:
    """Logarithm of the binomial coefficient."""
    return math.lgamma(total + 1) - torch.lgamma(chosen.double() + 1) - torch.lgamma(total - chosen.double() + 1)


def needed_accuracy(target: Target | None) -> float:
    """Return the lowest accuracy of interest: below it, the exact figure decides nothing."""
    return min(target.level, LOWEST_LEVEL) / 100 * target.baseline_accuracy if target else 0.0


def is_early(target: Target | None, iteration: int) -> bool:
    """Say whether no run of the task has come near its target so early."""
    return target is not None and iteration < target.expected_from


def rejection_risk(early: bool, looks: int) -> float:
    """Return with which probability one of so many looks may give up wrongly."""
    return EARLY_RISK if early else RISK / looks
