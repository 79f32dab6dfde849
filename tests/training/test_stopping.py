"""What a part of val may say: it is wrong as rarely as it promises, by counting and by simulation."""

import math
from itertools import pairwise

import pytest
import torch
from support.trainings import target_at

from retrain.training.stopping import (
    EARLY_RISK,
    FIRST,
    RISK,
    is_early,
    needed_accuracy,
    rejection_risk,
    subset_ends,
    tail_probability,
)


@pytest.mark.parametrize(("seen", "enough", "total"), [(5, 7, 12), (12, 7, 12), (8, 3, 12), (40, 150, 200)])
def test_the_chance_is_the_share_of_all_draws_with_so_few_right_ones(seen: int, enough: int, total: int) -> None:
    draws = [math.comb(enough, right) * math.comb(total - enough, seen - right) for right in range(seen + 1)]
    for correct in range(seen + 1):
        expected = sum(draws[: correct + 1]) / math.comb(total, seen)
        assert tail_probability(correct, seen, enough, total) == pytest.approx(expected, abs=1e-12)


def test_more_than_there_are_left_cannot_be_made_up_for() -> None:
    assert tail_probability(0, 999, 2, 1000) == 0.0
    assert tail_probability(10, 500, 2000, 1000) == 0.0


def test_the_chance_of_large_numbers_keeps_its_digits() -> None:
    """Of 20,000 of a million, half of them right, at most half are right half of the time."""
    middle = tail_probability(10_000, 20_000, 500_000, 1_000_000)
    assert middle == pytest.approx(0.5 + 0.5 * math.exp(_log_probability_of_half()), rel=1e-6)


def _log_probability_of_half() -> float:
    def ways(total: int, chosen: int) -> float:
        return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)

    return 2 * ways(500_000, 10_000) - ways(1_000_000, 20_000)


@pytest.mark.parametrize(("correct", "total"), [(50, 500), (300, 1000), (700, 1000), (990, 1000)])
@pytest.mark.parametrize("risk", [0.2, 0.01])
def test_looks_give_up_wrongly_no_more_often_than_the_risk(correct: int, total: int, risk: float) -> None:
    """The accuracy is exactly what is needed, so that whatever gives up is wrong."""
    drawn = torch.Generator().manual_seed(0)
    hits = (torch.rand(2000, total, generator=drawn).argsort(1) < correct).cumsum(1)
    ends = list(subset_ends(total))
    limits = {
        end: sum(tail_probability(right, end, correct, total) <= risk / len(ends) for right in range(end + 1))
        for end in ends[:-1]
    }
    wrong = torch.stack([hits[:, end - 1] < limit for end, limit in limits.items()]).any(0)
    assert wrong.float().mean() <= risk


@pytest.mark.parametrize("total", [1, FIRST, FIRST + 1, 5000, 100_000])
def test_looks_grow_until_they_have_seen_everything(total: int) -> None:
    ends = list(subset_ends(total))
    assert ends[-1] == total
    assert ends[0] == min(FIRST, total)
    assert all(1 < later / earlier <= 1.51 for earlier, later in pairwise(ends))


def test_curves_are_exact_from_99_percent_of_the_baseline_on() -> None:
    target = target_at(0.8)
    assert needed_accuracy(target) == needed_accuracy(target.model_copy(update={"level": 99})) == 0.99 * 0.8
    assert needed_accuracy(target.model_copy(update={"level": 50})) == 0.5 * 0.8
    assert needed_accuracy(None) == 0.0


def test_looks_are_brief_only_where_no_run_has_come_near_its_target() -> None:
    target = target_at(0.8).model_copy(update={"expected_from": 60})
    assert [is_early(target, iteration) for iteration in (1, 59, 60, 100)] == [True, True, False, False]
    assert not is_early(target_at(0.8), 1)
    assert not is_early(None, 1)
    assert (rejection_risk(True, 10), rejection_risk(False, 10)) == (EARLY_RISK, RISK / 10)


def test_an_early_look_gives_up_below_what_is_needed_and_goes_on_above_it() -> None:
    needed, total = 600, 1000
    assert tail_probability(118, 200, needed, total) < EARLY_RISK < tail_probability(122, 200, needed, total)
