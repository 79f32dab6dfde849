"""All orders of an epoch are equally likely. An order depends on the seed only, and contains each sample once."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor

from retrain.data.stream.order import shards_by_first_use, window_shuffle
from retrain.recipe.learning_speed import BLOCK
from retrain.recipe.sampling import LARGE, draw_epoch, shuffle, sort_by_random_key
from retrain.training.seeds import make_generator


def sort_by_random_numbers(kept: Tensor, drawn: torch.Generator) -> Tensor:
    """Return the order that `shuffle` computes for many samples."""
    return sort_by_random_key(kept, lambda block: torch.rand(len(block), generator=drawn, dtype=torch.float64))


def test_few_samples_are_ordered_by_torchs_randperm() -> None:
    kept = torch.arange(0, 3000, 3)
    expected = kept[torch.randperm(1000, generator=make_generator(0, "order"))]
    assert torch.equal(shuffle(kept, make_generator(0, "order")), expected)


def test_shuffled_orders_are_equally_likely() -> None:
    drawn = make_generator(0, "lots")
    orders = Counter(tuple(sort_by_random_numbers(torch.tensor([2, 5, 7, 11]), drawn).tolist()) for _ in range(24_000))
    assert len(orders) == 24
    # Chi-squared with 23 degrees of freedom exceeds 49.7 once in a thousand.
    assert sum((count - 1000) ** 2 / 1000 for count in orders.values()) < 49.7


def test_shuffle_spreads_each_block_evenly_over_the_epoch() -> None:
    size = 4 * BLOCK
    order = sort_by_random_numbers(torch.arange(size), make_generator(1, "lots"))
    cells = torch.bincount(order * 16 // size * 16 + torch.arange(size) * 16 // size, minlength=256).double()
    expected = size / 256
    # Chi-squared with 15 x 15 degrees of freedom exceeds 292.7 once in a thousand.
    assert ((cells - expected) ** 2 / expected).sum() < 292.7


def test_order_rises_between_half_of_all_neighbours() -> None:
    order = sort_by_random_numbers(torch.arange(4 * BLOCK), make_generator(2, "lots"))
    rising = (order[1:] > order[:-1]).double().mean().item()
    assert rising == pytest.approx(0.5, abs=4 * (12 * len(order)) ** -0.5)


def test_large_shuffle_has_each_sample_once_and_follows_the_seed() -> None:
    first, again, other = (draw_epoch(None, LARGE, make_generator(seed, "pass")) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert int((first == other).sum()) < 20  # one of 4 million samples is expected to have the same place in both
    assert torch.equal(first.sort().values, torch.arange(LARGE))


def test_epoch_content_does_not_depend_on_blocks_or_order() -> None:
    size = 3 * BLOCK + 17
    probability = torch.linspace(0, 1, size)
    kept = (torch.rand(size, generator=make_generator(0, "pass")) < probability).nonzero().squeeze(1)
    counts = torch.full((size // 1000 + 1,), 1000)
    for arrange in (shuffle, sort_by_random_numbers, partial(window_shuffle, counts=counts, window=4)):
        drawn = draw_epoch(probability, size, make_generator(0, "pass"), arrange)
        assert drawn.dtype == torch.int64
        assert torch.equal(drawn.sort().values, kept)


@pytest.mark.parametrize("kept", [torch.arange(0), torch.tensor([0]), torch.tensor([1]), torch.tensor([2**40])])
def test_shuffle_of_one_or_no_sample_is_unchanged(kept: Tensor) -> None:
    assert torch.equal(sort_by_random_numbers(kept.clone(), make_generator(0, "lots")), kept)


def test_shard_shuffle_equals_a_sort_by_random_keys() -> None:
    counts = torch.tensor([30_000, 0, 70_000, 1, 49_999])
    kept = torch.arange(0, 150_000, 3)
    drawn = make_generator(3, "pass")
    unit = torch.randperm(5, generator=drawn)[torch.repeat_interleave(torch.arange(5), counts)[kept]]
    place = unit + 2 * torch.rand(len(kept), generator=drawn, dtype=torch.float64)
    expected = kept[place.argsort()]
    assert torch.equal(window_shuffle(kept.clone(), make_generator(3, "pass"), counts, 2), expected)


def test_shards_by_first_use_lists_each_shard_once_in_order() -> None:
    size = 2 * BLOCK + 5
    counts = torch.full((size // 500 + 1,), 500)
    order = window_shuffle(torch.arange(0, size, 7), make_generator(4, "pass"), counts, 8)
    assert shards_by_first_use(order, counts) == list(dict.fromkeys((order // 500).tolist()))
