"""The order of an epoch over shards. It is shuffled as much as a limited number of open shards allows.

A plain shuffle would need every shard at once, and a bounded cache cannot hold them all.
"""

import torch
from torch import Tensor

from retrain.recipe.learning_speed import BLOCK
from retrain.recipe.sampling import sort_by_random_key


def window_shuffle(kept: Tensor, generator: torch.Generator, counts: Tensor, window: int) -> Tensor:
    """Return the samples `kept`, int64 [n], in an order that needs only about `window` shards at once.

    `counts`, int64 [shards], has the shards' numbers of samples. Samples are numbered in the order of the shards. The
    shards are placed on a line in random order, each one unit long. Every sample moves to a random place in the
    `window` units after the start of its shard. The next samples to read are therefore in at most window + 1 shards.
    With a window much larger than the number of shards, this is a plain shuffle.
    """
    unit, units = torch.randperm(len(counts), generator=generator), len(counts) + window

    def place(block: Tensor) -> Tensor:
        shift = torch.rand(len(block), generator=generator, dtype=torch.float64)
        return (unit[shard_of(block, counts)] + window * shift) / units

    return sort_by_random_key(kept, place)


def shard_of(samples: Tensor, counts: Tensor) -> Tensor:
    """Return the number of each sample's shard, int64 [n]."""
    return torch.bucketize(samples, counts.cumsum(0), right=True)


def shards_by_first_use(order: Tensor, counts: Tensor) -> list[int]:
    """Return the shards of an order's samples, sorted by their first use.

    Shards are downloaded in this order.
    """
    first = torch.full_like(counts, len(order))
    for start, block in zip(range(0, len(order), BLOCK), torch.split(order, BLOCK), strict=True):
        first.scatter_reduce_(0, shard_of(block, counts), torch.arange(start, start + len(block)), "amin")
    return first.argsort()[: int((first < len(order)).sum())].tolist()
