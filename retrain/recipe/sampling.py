"""Sampling: the samples of an epoch, and their order (Verwimp et al., section 3.3).

An epoch is Poisson-thinned: every sample is kept with its own probability, independently of the others. The kept
samples are shuffled. A sample appears more than once in an epoch only if classes are balanced (`balanced_appearances`).
Drawing an epoch takes tens of nanoseconds a sample at any size.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from retrain.config.recipe import EasyHard, OldNew, Sampling, Uniform
from retrain.errors import TaskError
from retrain.recipe.learning_speed import BLOCK, Counters, difficulty

Arrangement = Callable[[Tensor, torch.Generator], Tensor]
"""Function that puts the sorted indices of an epoch into their training order, possibly in place."""

LARGE = 1 << 22
"""From this many samples on, shuffling sorts by random numbers. `torch.randperm` would wait for memory at each step."""
BITS = 63
"""Bits of a non-negative int64."""


def shuffle(kept: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices in random order, on the CPU.

    The order depends only on the generator and on the number of indices. Below `LARGE`, it is the order of
    `torch.randperm`.
    """
    if len(kept) < LARGE:
        return kept[torch.randperm(len(kept), generator=generator)]
    return sort_by_random_key(kept, lambda block: torch.rand(len(block), generator=generator, dtype=torch.float64))


def sort_by_random_key(kept: Tensor, draw_keys: Callable[[Tensor], Tensor]) -> Tensor:
    """Sort indices by keys, in place. `draw_keys` returns a key in [0, 1), float64, for each index of a block.

    Key and index share an int64. Sorting these integers reads memory in sequence, at 100 million integers a second. The
    index takes its `bit_length`, and the key takes the other bits: 36 of 63 for 100 million samples. Equal keys keep
    their order.
    """
    if not len(kept):
        return kept
    bits = int(kept[-1]).bit_length()
    for block in torch.split(kept, BLOCK):
        block += draw_keys(block).mul_(2 ** (BITS - bits)).long() << bits
    kept.numpy().sort()
    return kept.bitwise_and_(2**bits - 1)


def keep_probability(setting: Sampling, counters: Counters | None, old: Tensor) -> Tensor | None:
    """Return the probability [N], float32, with which each sample appears in an epoch. None if every sample does.

    `counters` is the parent's learning-speed index over the N samples. Only `EasyHard` uses it. Without it, no sample
    is easy or hard. `old` [N], bool, marks the samples that the parent was trained on. Both are on the CPU.
    """
    match setting:
        case Uniform():
            return None
        case EasyHard():
            return _easy_hard(setting, counters, old) if counters else torch.ones(len(old))
        case OldNew(new=new):
            return _old_new(new, old)


def balanced_appearances(labels: Tensor) -> Tensor:
    """Return the mean number of appearances of each sample in an epoch, [N], if all classes appear equally often.

    It is N / (K n_k) for a sample of a class with n_k of the N samples. K is the number of classes that have samples.
    The mean is 1, so an epoch is as long as without balance.
    """
    counts = torch.bincount(labels)
    return (len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).double())).float()[labels]


def draw_epoch(
    probability: Tensor | None, size: int, generator: torch.Generator, arrange: Arrangement = shuffle
) -> Tensor:
    """Return the indices, int64, of one epoch over `size` samples. `probability`, generator and result are on the CPU.

    The length of the epoch is random, with mean `probability.sum()`. If this mean is small, an epoch may be empty. A
    sample with a probability above 1 appears that often on average. The arrangement changes only the order of the
    epoch, not its samples.
    """
    return arrange(torch.arange(size) if probability is None else _thinned(probability, generator), generator)


def _thinned(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Return the drawn indices, sorted.

    Each index appears as often as the integer part of its probability. The fractional part is the probability of one
    more appearance.
    """
    repeated = bool((probability > 1).any())
    whole = probability.floor() if repeated else torch.zeros(())
    parts = (torch.rand(len(block), generator=generator) < block for block in torch.split(probability - whole, BLOCK))
    drawn = torch.cat(list(parts))
    if not repeated:
        return drawn.nonzero().squeeze(1)
    return torch.arange(len(drawn)).repeat_interleave(whole.long() + drawn)


def _easy_hard(setting: EasyHard, counters: Counters, old: Tensor) -> Tensor:
    """Return r for the ⌊share·N_old⌋ easiest and the same number of hardest old samples, and 1 for all other samples.

    The share is half of the paper's c. Old samples that were never counted are neither easy nor hard. If fewer than
    2⌊share·N_old⌋ old samples were counted, the two groups overlap, and all counted samples are thinned. Raises
    `TaskError` if nothing is left to train on.
    """
    known = old & (counters.seen > 0)
    # Decimal, as the task file writes the share: in floats, 0.29 of 100 samples would be 28.
    ends = min(math.floor(Fraction(str(setting.share)) * int(old.sum())), int(known.sum()))
    probability = torch.ones(len(old))
    if ends:
        probability[_extremes(counters, known, ends)] = setting.probability
    if not probability.any():
        raise TaskError("recipe.sampling leaves no sample to train on: raise its probability, or lower its share")
    return probability


def _extremes(counters: Counters, known: Tensor, ends: int) -> Tensor:
    """Return a mask, bool [N], of the `ends` easiest known samples and the same number of the hardest ones.

    Among samples with equal keys at a border, the first ones count as easiest and the last ones as hardest.
    """
    low, high = _borders(difficulty(counters), known, ends)
    keys = difficulty(counters)  # computed again, because a copy would take as much memory as the counters
    marked = known & ((keys < low) | (keys > high))
    easy, hard = int((known & (keys < low)).sum()), int((known & (keys > high)).sum())
    marked[(known & (keys == low)).nonzero()[: ends - easy]] = True
    marked[(known & (keys == high)).nonzero().flipud()[: ends - hard]] = True
    return marked


def _borders(keys: Tensor, known: Tensor, ends: int) -> tuple[int, int]:
    """Return the `ends`-th lowest and the `ends`-th highest key of known samples. `keys` is overwritten.

    Partitioning takes linear time in N. Sorting 100 million keys would take longer.
    """
    keys[~known] = torch.iinfo(keys.dtype).max
    ordered, count = keys.numpy(), int(known.sum())
    ordered.partition([ends - 1, count - ends])
    return int(ordered[ends - 1]), int(ordered[count - ends])


def _old_new(new: float, old: Tensor) -> Tensor | None:
    """Thin the larger group so that the expected share of new samples is `new`.

    If one of the two groups is empty, thin nothing.
    """
    n_old, n_new = int(old.sum()), int((~old).sum())
    if n_old == 0 or n_new == 0:
        return None
    keep_old = min(1.0, (1 - new) / new * n_new / n_old)
    keep_new = min(1.0, new / (1 - new) * n_old / n_new)
    return torch.where(old, keep_old, keep_new)
