"""What a part of val may say: the bound holds as often as it promises, by simulation."""

import math

import pytest
import torch

from retrain.training.stopping import needed_accuracy, upper_bound


@pytest.mark.parametrize(("correct", "total"), [(50, 100), (300, 1000), (700, 1000), (990, 1000)])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01])
def test_the_bound_fails_no_more_often_than_alpha(correct: int, total: int, alpha: float) -> None:
    drawn = torch.Generator().manual_seed(0)
    order = torch.rand(4000, total, generator=drawn).argsort(1)
    hits = (order < correct).cumsum(1)  # the first `correct` samples are right ones
    for seen in (total // 10, total // 3, total // 2, total - 10):
        failures = sum(upper_bound(int(hit), seen, total, alpha) < correct / total for hit in hits[:, seen - 1])
        assert failures / len(order) <= alpha


def test_the_bound_is_serflings() -> None:
    margin = math.sqrt((1 - 99 / 1000) * math.log(1 / 0.05) / 200)
    assert upper_bound(40, 100, 1000, 0.05) == pytest.approx(0.4 + margin)


def test_what_is_left_bounds_it_too() -> None:
    assert upper_bound(0, 999, 1000, 1e-9) == pytest.approx(1 / 1000)


@pytest.mark.parametrize("correct", [0, 333, 1000])
def test_the_bound_of_everything_is_the_accuracy_itself(correct: int) -> None:
    assert upper_bound(correct, 1000, 1000, 1e-3) == correct / 1000


def test_curves_are_exact_from_99_percent_of_the_baseline_on() -> None:
    assert needed_accuracy(100, 0.8) == 0.99 * 0.8
    assert needed_accuracy(99, 0.8) == 0.99 * 0.8
    assert needed_accuracy(50, 0.8) == 0.5 * 0.8
