"""Sampling probabilities equal computations by hand, and epochs are drawn with these probabilities.

Thinned samples have a probability below 1.
"""

import math
import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from retrain.config.recipe import EasyHard, OldNew, Uniform
from retrain.errors import TaskError
from retrain.recipe.learning_speed import Counters
from retrain.recipe.sampling import draw_epoch, keep_probability


def random_counters(n: int, seed: int) -> tuple[Counters, Tensor]:
    """Return random counters with many ties and some samples that were never seen, and the mask of old samples."""
    rng = random.Random(seed)
    seen = [rng.choice([0, 2, 4, 4, 4]) for _ in range(n)]
    correct = [rng.randint(0, times) for times in seen]
    loss = [times * rng.choice([0.5, 1.0, 2.0]) for times in seen]
    old = [rng.random() < 0.7 for _ in range(n)]
    columns = (torch.tensor(column, dtype=torch.float32) for column in (seen, correct, loss))
    return Counters(*columns), torch.tensor(old)


def group(old: int, new: int) -> Tensor:
    return torch.tensor([True] * old + [False] * new)


def speeds(values: list[float]) -> Counters:
    """Return counters of samples that were seen 100 times each, with these learning speeds."""
    correct = (100 * torch.tensor(values)).round()
    return Counters(torch.full_like(correct, 100), correct, torch.zeros_like(correct))


def drawn(probability: Tensor | None, size: int, passes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [draw_epoch(probability, size, generator) for _ in range(passes)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("share", "percent"), [(0.1, 10), (0.29, 29), (0.5, 50), (0.0, 0)])
def test_easy_hard_equals_a_sort_by_hand(seed: int, share: float, percent: int) -> None:
    counters, old = random_counters(100, seed)
    known = [i for i in range(100) if old[i] and counters.seen[i] > 0]
    seen, correct, loss = (column.tolist() for column in (counters.seen, counters.correct, counters.loss))
    known.sort(key=lambda i: (-correct[i] / seen[i], loss[i] / seen[i], i))
    ends = int(old.sum()) * percent // 100
    thinned = set(known[:ends]) | set(known[::-1][:ends])
    expected = [0.25 if i in thinned else 1.0 for i in range(100)]
    found = keep_probability(EasyHard(share=share, probability=0.25), counters, old)
    assert found is not None
    assert found.dtype == torch.float32
    assert found.tolist() == expected


def test_easy_hard_thins_only_old_samples_at_both_ends() -> None:
    counters = speeds([0.9, 0.1, 0.5, 0.6, 0.4, 0.5, 0.3, 0.7, 0.5, 0.5, 1.0, 0.0])
    found = keep_probability(EasyHard(share=0.1, probability=0.5), counters, group(10, 2))
    assert found is not None
    assert found.tolist() == [0.5, 0.5, *[1.0] * 10]


@pytest.mark.parametrize(("share", "old", "ends"), [(0.29, 100, 29), (0.1, 30, 3), (0.1, 39, 3), (0.07, 100, 7)])
def test_each_end_has_the_share_rounded_down(share: float, old: int, ends: int) -> None:
    found = keep_probability(EasyHard(share=share), speeds([i / old for i in range(old)]), group(old, 0))
    assert found is not None
    assert int((found < 1).sum()) == 2 * ends


def test_unseen_samples_count_but_are_neither_easy_nor_hard() -> None:
    counters = speeds([i / 20 for i in range(20)])
    counters.seen[10:], counters.correct[10:] = 0, 0
    counters.seen[0], counters.correct[0] = 1, 0
    found = keep_probability(EasyHard(share=0.1, probability=0.5), counters, group(20, 0))
    assert found is not None
    assert (found < 1).nonzero().flatten().tolist() == [0, 1, 8, 9]


def test_easy_hard_without_known_samples_keeps_all() -> None:
    found = keep_probability(EasyHard(), Counters.zeros(10), group(7, 3))
    assert found is not None
    assert found.tolist() == [1.0] * 10


def test_easy_hard_raises_new_samples_from_30_to_34_percent() -> None:
    found = keep_probability(EasyHard(), speeds([i / 1000 for i in range(1000)]), group(700, 300))
    assert found is not None
    assert (found[700:].sum() / found.sum()).item() == pytest.approx(300 / (300 + 560 + 14), rel=1e-6)


def test_sampling_that_keeps_no_sample_is_refused() -> None:
    counters = speeds([0.1, 0.2, 0.3, 0.4])
    with pytest.raises(TaskError, match="leaves no sample"):
        keep_probability(EasyHard(share=0.5, probability=0), counters, group(4, 0))


@pytest.mark.parametrize(("old", "new"), [(700, 300), (300, 700), (500, 500), (999, 1)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_old_new_reaches_its_share_by_thinning_one_group(old: int, new: int, share: float) -> None:
    found = keep_probability(OldNew(new=share), Counters.zeros(old + new), group(old, new))
    assert found is not None
    assert (found[old:].double().sum() / found.double().sum()).item() == pytest.approx(share, rel=1e-6)
    kept = {found[0].item(), found[-1].item()}
    assert max(kept) == 1.0
    assert min(kept) > 0
    assert set(found.tolist()) == kept


@pytest.mark.parametrize(("old", "new"), [(10, 0), (0, 10)])
def test_old_new_with_only_one_group_keeps_all_samples(old: int, new: int) -> None:
    assert keep_probability(OldNew(), Counters.zeros(10), group(old, new)) is None


def test_uniform_epochs_contain_each_sample_once_in_new_order() -> None:
    counters, old = random_counters(1000, seed=0)
    passes = drawn(keep_probability(Uniform(), counters, old), 1000, 2)
    for each in passes:
        assert each.dtype == torch.int64
        assert each.sort().values.tolist() == list(range(1000))
    assert passes[0].tolist() != passes[1].tolist()


def test_epoch_has_probability_1_samples_once_and_0_never() -> None:
    probability = torch.tensor([1.0] * 500 + [0.0] * 500)
    for each in drawn(probability, 1000, 3):
        assert each.dtype == torch.int64
        assert each.sort().values.tolist() == list(range(500))


def test_samples_are_drawn_as_often_as_their_probability() -> None:
    probability = torch.tensor([0.1, 0.5, 0.9, 1.0]).repeat_interleave(25_000)
    each = torch.cat(drawn(probability, 100_000, 10))
    counts = torch.bincount(each, minlength=100_000).view(4, -1).double()
    for p, mean in zip((0.1, 0.5, 0.9, 1.0), (counts.mean(1) / 10).tolist(), strict=True):
        assert abs(mean - p) <= 4 * math.sqrt(p * (1 - p) / 250_000)
    # Draws are independent. The count of a sample is binomial over 10 epochs, so its variance is 10 p (1 - p).
    assert counts.var(1).tolist() == pytest.approx([0.9, 2.5, 0.9, 0.0], rel=0.05)


def test_no_sample_appears_twice_in_an_epoch() -> None:
    each = drawn(torch.full((1000,), 0.5), 1000, 1)[0]
    assert len(set(each.tolist())) == len(each)


@pytest.mark.parametrize("probability", [None, torch.tensor([1.0, 1.0, 1.0, 0.0])])
def test_every_order_is_equally_likely(probability: Tensor | None) -> None:
    orders = Counter(tuple(each.tolist()) for each in drawn(probability, 3 if probability is None else 4, 6000))
    assert len(orders) == 6
    # Chi-squared with 5 degrees of freedom exceeds 20.5 once in a thousand.
    assert sum((count - 1000) ** 2 / 1000 for count in orders.values()) < 20.5


def test_restored_generator_draws_the_same_epoch() -> None:
    probability, generator = torch.full((1000,), 0.5), torch.Generator().manual_seed(0)
    state = generator.get_state()
    first, second = (draw_epoch(probability, 1000, generator) for _ in range(2))
    generator.set_state(state)
    assert torch.equal(draw_epoch(probability, 1000, generator), first)
    assert first.tolist() != second.tolist()
