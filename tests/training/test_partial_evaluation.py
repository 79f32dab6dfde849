"""An evaluation on a part of val rejects a good network no more often than its set risk."""

import math

import pytest
import torch
from support.trainings import target_at

from retrain.records.plan import Scope, StopRule
from retrain.training.stopping import needed_accuracy, subset_ends, tail_probability


@pytest.mark.parametrize(("seen", "enough", "total"), [(5, 7, 12), (12, 7, 12), (8, 3, 12), (40, 150, 200)])
def test_tail_probability_is_the_share_of_equal_or_worse_draws(seen: int, enough: int, total: int) -> None:
    draws = [math.comb(enough, right) * math.comb(total - enough, seen - right) for right in range(seen + 1)]
    for correct in range(seen + 1):
        expected = sum(draws[: correct + 1]) / math.comb(total, seen)
        assert tail_probability(correct, seen, enough, total) == pytest.approx(expected, abs=1e-12)


def test_tail_probability_of_an_impossible_draw_is_zero() -> None:
    assert tail_probability(0, 999, 2, 1000) == 0.0
    assert tail_probability(10, 500, 2000, 1000) == 0.0


def test_tail_probability_is_exact_for_large_numbers() -> None:
    """If half of a million samples are correct, at most half of 20,000 drawn samples are so with probability 0.5."""
    middle = tail_probability(10_000, 20_000, 500_000, 1_000_000)
    assert middle == pytest.approx(0.5 + 0.5 * math.exp(_log_probability_of_half()), rel=1e-6)


def _log_probability_of_half() -> float:
    def log_binomial(total: int, chosen: int) -> float:
        return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)

    return 2 * log_binomial(500_000, 10_000) - log_binomial(1_000_000, 20_000)


@pytest.mark.parametrize(("correct", "total"), [(50, 500), (300, 1000), (700, 1000), (990, 1000)])
@pytest.mark.parametrize("risk", [0.2, 0.01])
def test_false_rejections_stay_within_the_set_risk(correct: int, total: int, risk: float) -> None:
    """The accuracy is exactly the needed accuracy, so each rejection is a mistake."""
    drawn = torch.Generator().manual_seed(0)
    hits = (torch.rand(2000, total, generator=drawn).argsort(1) < correct).cumsum(1)
    ends = list(subset_ends(total))
    limits = {
        end: sum(tail_probability(right, end, correct, total) <= risk / len(ends) for right in range(end + 1))
        for end in ends[:-1]
    }
    wrong = torch.stack([hits[:, end - 1] < limit for end, limit in limits.items()]).any(0)
    assert wrong.float().mean() <= risk


def test_curves_are_exact_from_99_percent_of_the_baseline_on() -> None:
    target = target_at(0.8)
    assert needed_accuracy(target) == needed_accuracy(target.model_copy(update={"level": 99})) == 0.99 * 0.8
    assert needed_accuracy(target.model_copy(update={"level": 50})) == 0.5 * 0.8
    assert needed_accuracy(None) == 0.0


def test_evaluations_are_full_with_a_stop_rule_or_a_scope() -> None:
    rule = StopRule(confirmations=2, window=20, gain=0.01, patience=40)
    assert needed_accuracy(target_at(0.8), rule) == 0.0
    carried = target_at(0.8).model_copy(update={"scope": Scope(drops=("d-0",), classes=3)})
    assert needed_accuracy(carried) == 0.0
