"""Each condition of the gate can refuse a candidate alone, and gives its reason."""

import math

import numpy as np
import pytest
import torch
from support.histories import drop

from retrain.config.task import Gate
from retrain.pipeline.gate import compare, decide, gate_warnings, images_to_decide, images_to_show, paired_difference
from retrain.records import Comparison, Drop, Evaluation, Interval

BEST = {"accuracy": 0.9, "old": 0.92, "new": 0.88, "by_class": {"cat": 0.95, "dog": 0.85}}


def evaluation(low: float = 0.0, flips: float = 0.0, width: float = 0.02, **changes: object) -> Evaluation:
    difference = Interval(value=low + width / 2, low=low, high=low + width)
    comparison = Comparison(champion="scratch-0", champion_accuracy=0.9, difference=difference, negative_flips=flips)
    return Evaluation.model_validate({"samples": 100, "comparison": comparison, **BEST, **changes})


def test_candidate_that_meets_all_conditions_passes() -> None:
    gate = Gate(min_accuracy=0.9, min_old_accuracy=0.92, min_class_accuracy=0.85, max_negative_flips=0.05, margin=0.02)
    decision = decide(gate, evaluation(low=-0.02, flips=0.05))
    assert decision.promoted
    assert decision.reasons == ()


@pytest.mark.parametrize(
    ("gate", "changes", "reason"),
    [
        (Gate(min_accuracy=0.901), {}, "accuracy 0.9000 is below gate.min_accuracy 0.901"),
        (Gate(min_old_accuracy=0.93), {}, "accuracy on old drops 0.9200 is below gate.min_old_accuracy 0.93"),
        (Gate(min_class_accuracy=0.86), {}, "accuracy in class dog (0.8500) is below gate.min_class_accuracy 0.86"),
        (
            Gate(margin=0.02),
            {"low": -0.04},
            "worse than the champion scratch-0 by 3.00% (95% interval 2.00% to 4.00%)",
        ),
        (Gate(max_negative_flips=0.01), {"flips": 0.02}, "negative flips 0.0200 exceed gate.max_negative_flips 0.01"),
    ],
)
def test_each_condition_refuses_alone_and_gives_its_reason(gate: Gate, changes: dict[str, float], reason: str) -> None:
    decision = decide(gate, evaluation(**changes))
    assert not decision.promoted
    assert len(decision.reasons) == 1
    assert reason in decision.reasons[0]


def test_every_failed_condition_is_named() -> None:
    gate = Gate(min_accuracy=1, min_old_accuracy=1, min_class_accuracy=1, max_negative_flips=0, margin=0)
    assert len(decide(gate, evaluation(low=-0.1, flips=0.1)).reasons) == 5


def test_gate_judges_the_first_candidate_without_a_champion() -> None:
    first = evaluation(old=None, comparison=None)
    assert decide(Gate(min_old_accuracy=1, margin=0, max_negative_flips=0), first).promoted
    assert not decide(Gate(min_accuracy=0.95), first).promoted


@pytest.mark.parametrize(
    ("low", "width", "promoted"),
    [
        (-0.04, 0.03, False),  # 0.025 less accuracy, and the interval is below zero
        (-0.05, 0.06, True),  # 0.02 less accuracy, but within the margin
        (-0.08, 0.1, True),  # 0.03 less accuracy, but the interval includes zero
        (-0.021, 0.01, True),  # 0.016 less accuracy, but within the margin
        (-0.06, 0.06, True),  # 0.03 less accuracy, but the interval ends at zero
    ],
)
def test_only_a_proven_decline_beyond_the_margin_refuses(low: float, width: float, promoted: bool) -> None:
    decision = decide(Gate(margin=0.02), evaluation(low=low, width=width))
    assert decision.promoted == promoted
    assert bool(decision.notes) == promoted, "a note states what the test images do not show"


def test_interval_within_the_margin_gets_no_note() -> None:
    assert decide(Gate(margin=0.02), evaluation(low=-0.02, width=0.05)).notes == ()
    assert decide(Gate(margin=0.02), evaluation(low=-0.01, width=0.05)).notes == ()
    (note,) = decide(Gate(margin=0.02), evaluation(low=-0.03, width=0.06)).notes
    assert "100 test images do not show" in note
    assert "is -3.00% to +3.00%; about 225 test images would be enough if the difference stays +0.00%" in note
    assert "a warning in the plan assumes no difference" in note


def test_compare_counts_samples_that_only_one_model_gets_right() -> None:
    candidate = torch.tensor([True] * 6 + [True] * 2 + [False] * 1 + [False] * 3)
    champion = torch.tensor([True] * 6 + [False] * 2 + [True] * 1 + [False] * 3)
    comparison = compare("scratch-0", champion, candidate, 0.9)
    assert comparison.difference == paired_difference(2, 1, 12, 0.9)
    assert comparison.difference.value == 1 / 12
    assert comparison.champion_accuracy == 7 / 12
    assert comparison.negative_flips == 1 / 12


def test_paired_difference_has_walds_interval_of_smoothed_counts() -> None:
    b, c, n = 8.5, 3.5, 102
    error = math.sqrt(b + c - (b - c) ** 2 / n) / n
    interval = paired_difference(8, 3, 100, 0.95)
    assert interval.value == 0.05
    assert interval.low == pytest.approx((b - c) / n - 1.959964 * error, abs=1e-7)
    assert interval.high == pytest.approx((b - c) / n + 1.959964 * error, abs=1e-7)
    assert paired_difference(0, 1, 1, 0.9999).low == -1.0
    assert paired_difference(1, 0, 1, 0.9999).high == 1.0


def test_small_test_split_rarely_refuses_an_equal_model() -> None:
    """Check that fewer than 1 in 20 equally good candidates are refused, on 200 images with 15% disagreement."""
    draws = np.random.default_rng(20260103).multinomial(200, [0.75, 0.075, 0.075, 0.1], size=2000)
    refused = 0
    for both, better, worse, neither in draws:
        candidate = torch.tensor([True] * both + [True] * better + [False] * worse + [False] * neither)
        champion = torch.tensor([True] * both + [False] * better + [True] * worse + [False] * neither)
        judged = Evaluation.model_validate(
            {**BEST, "samples": 200, "comparison": compare("scratch-0", champion, candidate, 0.95)}
        )
        refused += not decide(Gate(margin=0.02), judged).promoted
    assert refused / len(draws) < 0.05


def test_refusal_agrees_with_mcnemars_exact_test() -> None:
    """Compare the gate's refusals with p of McNemar's test (1947).

    The two models disagree on some images. p is the binomial probability that the champion is right on at least as many
    of these images as observed, if both models are equally good. The gate uses an approximate interval, so it refuses
    candidates with p up to 0.04. With an exact interval, it would refuse candidates with p up to 0.025.
    """
    for better in range(12):
        for worse in range(30):
            disagreements = better + worse
            p = sum(math.comb(disagreements, k) for k in range(worse, disagreements + 1)) / 2**disagreements
            interval = paired_difference(better, worse, 200, 0.95)
            comparison = Comparison(
                champion="s", champion_accuracy=0.9, difference=interval, negative_flips=worse / 200
            )
            judged = Evaluation.model_validate({**BEST, "samples": 200, "comparison": comparison})
            refused = not decide(Gate(margin=0.02), judged).promoted
            is_loss = worse - better > 0.02 * 200
            assert not refused or (is_loss and p < 0.04)
            assert refused or not is_loss or p > 0.012


def test_images_to_decide_narrow_the_interval_to_the_margin() -> None:
    gate = Gate(margin=0.02)
    interval = paired_difference(14, 16, 200, 0.95)  # one percentage point less accuracy
    needed = images_to_decide(gate, interval, 200)
    assert interval.low < -gate.margin
    scaled = paired_difference(round(14 * needed / 200), round(16 * needed / 200), needed, 0.95)
    assert scaled.low == pytest.approx(-gate.margin, abs=0.001)
    assert images_to_decide(gate, Interval(value=-0.02, low=-0.07, high=0.03), 200) is None
    assert images_to_decide(gate, Interval(value=0.0, low=-0.001, high=0.001), 200) == 201


def drop_of(test: dict[str, int]) -> Drop:
    return drop(1).model_copy(update={"counts": {"train": {"cat": 10, "dog": 10}, "test": test}})


def test_gate_warns_of_conditions_that_need_more_images() -> None:
    """Compute the number of images that show that an equally good model is within the margin of 0.02.

    It is 0.15 * (1.96 / 0.02)^2: 0.15 is the share of disagreements, and 1.96 is the normal quantile for 95%.
    """
    assert images_to_show(Gate(margin=0.02)) == math.ceil(0.15 * (1.959964 / 0.02) ** 2) == 1441
    small, large = [drop_of({"cat": 100, "dog": 100})], [drop_of({"cat": 1000, "dog": 1000})]
    warning = next(gate_warnings(Gate(margin=0.02), small, has_champion=True))
    assert "about 1,441 are needed if both are equally good and disagree on 15% of the images" in warning
    assert not list(gate_warnings(Gate(margin=0.02), small, has_champion=False))
    assert not list(gate_warnings(Gate(margin=0.02), large, has_champion=True))
    flips = Gate(margin=0.5, max_negative_flips=0.004)
    assert "250 are needed to allow one" in next(gate_warnings(flips, small, has_champion=True))
    classes = list(gate_warnings(Gate(margin=0.5, min_class_accuracy=0.995), small, has_champion=True))
    assert "test images of cat, dog: 200 of each class are needed to allow one error" in classes[0]


@pytest.mark.parametrize(("floor", "images"), [(0.5, 2), (0.8, 5), (0.9, 10), (0.95, 20), (0.85, 7)])
def test_gate_counts_the_images_that_allow_one_error(floor: float, images: int) -> None:
    assert (images - 1) / images >= floor > (images - 2) / (images - 1)
    gate = Gate(margin=0.5, min_class_accuracy=floor)
    [warning] = gate_warnings(gate, [drop_of({"cat": 1, "dog": images})], has_champion=False)
    assert f"test images of cat: {images} of each class are needed" in warning
