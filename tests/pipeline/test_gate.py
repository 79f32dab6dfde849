"""The gate: every condition decides alone, at its edge, and says why."""

import pytest

from retrain.config.task import Gate
from retrain.pipeline.gate import decide
from retrain.records import Comparison, Evaluation, Interval

BEST = {"accuracy": 0.9, "old": 0.92, "new": 0.88, "by_class": {"cat": 0.95, "dog": 0.85}}


def evaluation(low: float = 0.0, flips: float = 0.0, **figures: object) -> Evaluation:
    difference = Interval(value=low + 0.01, low=low, high=low + 0.02)
    comparison = Comparison(champion="scratch-0", champion_accuracy=0.9, difference=difference, negative_flips=flips)
    return Evaluation.model_validate({"samples": 100, "comparison": comparison, **BEST, **figures})


def test_a_candidate_that_shows_everything_passes() -> None:
    gate = Gate(min_accuracy=0.9, min_old_accuracy=0.92, min_class_accuracy=0.85, max_negative_flips=0.05, margin=0.02)
    decision = decide(gate, evaluation(low=-0.02, flips=0.05))
    assert decision.promoted
    assert decision.reasons == ()


@pytest.mark.parametrize(
    ("gate", "figures", "said"),
    [
        (Gate(min_accuracy=0.901), {}, "accuracy 0.9000 is below gate.min_accuracy 0.901"),
        (Gate(min_old_accuracy=0.93), {}, "accuracy on old drops 0.9200 is below gate.min_old_accuracy 0.93"),
        (Gate(min_class_accuracy=0.86), {}, "accuracy in dog is below gate.min_class_accuracy 0.86"),
        (Gate(margin=0.02), {"low": -0.03}, "worse than the champion scratch-0 by 0.0300 (95% interval)"),
        (Gate(max_negative_flips=0.01), {"flips": 0.02}, "negative flips 0.0200 exceed gate.max_negative_flips 0.01"),
    ],
)
def test_each_condition_refuses_alone_and_says_why(gate: Gate, figures: dict[str, float], said: str) -> None:
    decision = decide(gate, evaluation(**figures))
    assert not decision.promoted
    assert len(decision.reasons) == 1
    assert said in decision.reasons[0]


def test_every_failed_condition_is_named() -> None:
    gate = Gate(min_accuracy=1, min_old_accuracy=1, min_class_accuracy=1, max_negative_flips=0, margin=0)
    assert len(decide(gate, evaluation(low=-0.1, flips=0.1)).reasons) == 5


def test_the_first_candidate_of_a_task_is_judged_without_a_champion() -> None:
    first = evaluation(old=None, comparison=None)
    assert decide(Gate(min_old_accuracy=1, margin=0, max_negative_flips=0), first).promoted
    assert not decide(Gate(min_accuracy=0.95), first).promoted


def test_it_is_the_interval_that_decides_and_not_the_difference() -> None:
    assert not decide(Gate(margin=0.0), evaluation(low=-0.001)).promoted
    assert decide(Gate(margin=0.0), evaluation(low=0.0)).promoted
