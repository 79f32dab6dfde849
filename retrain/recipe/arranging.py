"""The order of a pass, given which samples it holds."""

from collections.abc import Callable

import torch
from torch import Tensor

Arrange = Callable[[Tensor, torch.Generator], Tensor]
"""Puts the indices that a pass holds, rising, into the order in which it holds them; it may do so in their place."""

LARGE = 1 << 22
"""As many samples and more are sorted by random numbers, for `torch.randperm` then waits for memory at every step."""
BLOCK = 1 << 16
"""Samples at a time whose random numbers stay in the processor's cache."""
BITS = 63
"""Of an int64 that is not negative."""


def shuffled(kept: Tensor, generator: torch.Generator) -> Tensor:
    """Return them in random order, on the CPU.

    The order is a function of the generator and of how many there are, and below `LARGE` that of `torch.randperm`.
    """
    if len(kept) < LARGE:
        return kept[torch.randperm(len(kept), generator=generator)]
    return placed(kept, lambda block: torch.rand(len(block), generator=generator, dtype=torch.float64))


def placed(kept: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Sort them in their place: `place` gives each of a block a number in [0, 1), float64.

    Number and index share an int64, and sorting these reads memory in sequence: 100 M in a second. An index takes
    `bit_length` bits and the number the rest, 36 of 63 for 100 M samples; two that agree in these stay as they were.
    """
    if not len(kept):
        return kept
    bits = int(kept[-1]).bit_length()
    for block in torch.split(kept, BLOCK):
        block += place(block).mul_(2 ** (BITS - bits)).long() << bits
    kept.numpy().sort()
    return kept.bitwise_and_(2**bits - 1)
