"""Runs end by their rule: at the target, at a plateau, or at the end of the budget.

A carried target comes from a baseline on fewer drops. Its scope is the drops and classes of the baseline. The expected
accuracy is the estimated accuracy of scratch on all drops.
"""

import math
from collections.abc import Sequence
from statistics import mean

import pytest
import torch
from support.trainings import target_at

from retrain.config.task import Stopping
from retrain.records import Point, Target
from retrain.records.plan import AccuracyEstimate, Scope, StopRule
from retrain.training.stopping import (
    expect_scratch,
    has_plateau,
    judge,
    needed_gain,
    noise_factor,
    still_learns,
)

RULE = StopRule(confirmations=2, window=20, gain=0.01, patience=40)
CARRIED = target_at(0.8).model_copy(update={"provenance": "carried", "scope": Scope(drops=("d-0",), classes=3)})


def curve(
    accuracy: Sequence[float], in_scope: Sequence[float] | None = None, newest: Sequence[float] | None = None
) -> list[Point]:
    """Return points at iterations 10, 20, ...

    Each is measured on 10,000 images, so its standard error is too small to lengthen a window.
    """
    none = [None] * len(accuracy)
    columns = zip(accuracy, in_scope or none, newest or none, strict=True)
    return [
        Point(
            iteration=10 * number,
            accuracy=value,
            loss=1.0,
            images=10_000,
            train_loss=1.0,
            learning_rate=0.001,
            in_scope=scoped,
            newest=new,
        )
        for number, (value, scoped, new) in enumerate(columns, 1)
    ]


RISING = [0.1 * k for k in range(1, 8)]


@pytest.mark.parametrize(
    ("points", "target", "rule", "ending"),
    [
        (
            curve([0.5, 0.8]),
            target_at(0.8),
            None,
            "reached",
        ),  # without a rule, the first evaluation at the target ends the run
        (curve([0.5, 0.79]), target_at(0.8), None, None),
        (curve([0.5, 0.8]), None, RULE, None),
        (curve([0.5, 0.8]), target_at(0.8), RULE, None),  # one evaluation may be luck
        (curve([0.5, 0.8, 0.81]), target_at(0.8), RULE, "reached"),
        (curve([0.8, 0.7, 0.81]), target_at(0.8), RULE, None),  # the mean of the last two is below the target
        (curve([0.8]), target_at(0.8), RULE, None),
        (curve([0.5] * 10), target_at(0.8), RULE, "plateau"),
        (curve([0.5] * 4), target_at(0.8), RULE, "plateau"),  # patience is at most 0.7 of the iterations so far
        (curve([0.5] * 3), target_at(0.8), RULE, None),  # no run ends before it is as long as the rule's patience
        (curve([*RISING, 0.7, 0.7]), target_at(0.8), RULE, None),
        (curve(RISING), target_at(0.8), RULE, None),
        (curve([0.5] * 100), target_at(0.8), RULE, "missed"),
        (curve([0.5] * 99 + [0.8]), target_at(0.8), RULE, "reached"),  # the budget leaves no time to confirm it
        (curve([0.5] * 100), target_at(0.8), None, "missed"),
        # A carried target covers only its scope. At this target, a run continues until no curve improves.
        (curve([0.5, 0.7, 0.705, 0.705, 0.705], [0.9] * 5), CARRIED, RULE, "reached"),
        (curve([0.5, 0.6, 0.7, 0.75, 0.78], [0.9] * 5), CARRIED, RULE, None),
        (curve([0.7] * 5, [0.9] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]), CARRIED, RULE, None),
        (curve([0.7] * 5, [0.9] * 5, [0.4] * 5), CARRIED, RULE, "reached"),
        (curve([0.7] * 3, [0.9, 0.9, 0.69]), CARRIED, RULE, None),
        (
            curve([0.7, 0.68, 0.68, 0.68, 0.68], [0.9] * 5),
            CARRIED,
            RULE,
            "reached",
        ),  # the dip has lasted for the rule's patience
        (curve([0.7, 0.68, 0.68], [0.9] * 3), CARRIED, RULE, None),  # a shorter dip does not end a run
        (curve([0.7, 0.695, 0.695, 0.695], [0.9] * 4), CARRIED, RULE, "reached"),
        (curve([0.9] * 5, [0.7] * 5), CARRIED, RULE, "plateau"),
        (curve([0.5, 0.5], [0.7, 0.8]), CARRIED, None, "reached"),
        (curve([0.9, 0.9], [0.7, 0.7]), CARRIED, None, None),
    ],
)
def test_judge_ends_runs_as_listed(
    points: list[Point], target: Target | None, rule: StopRule | None, ending: str | None
) -> None:
    assert judge(points, target, rule, budget=1000) == ending


def test_judge_ends_a_late_run_above_the_expected_accuracy() -> None:
    """From `improve_until` on, here iteration 40, a run ends if it is above the expected accuracy by a standard error.

    The mean of its last two evaluations counts.
    """
    target = CARRIED.model_copy(update={"expected": AccuracyEstimate(accuracy=0.80, standard_error=0.02)})
    limited = RULE.model_copy(update={"improve_until": 40})
    rising, below = curve([0.77, 0.79, 0.81, 0.85], [0.9] * 4), curve([0.77, 0.79, 0.81, 0.829], [0.9] * 4)
    assert judge(rising, target, limited, 1000) == "reached"
    assert judge(below, target, limited, 1000) is None
    assert judge(curve([0.77, 0.79, 0.81, 0.85], [0.7] * 4), target, limited, 1000) is None, (
        "the run is below its target"
    )
    assert judge(rising, target, RULE.model_copy(update={"improve_until": 41}), 1000) is None, "before `improve_until`"
    assert judge(rising, target, RULE, 1000) is None


@pytest.mark.parametrize(
    ("accuracy", "is_rough", "ending"), [(0.79, False, "reached"), (0.81, False, None), (0.79, True, None)]
)
def test_judge_ends_a_fitted_parents_run_early(accuracy: float, is_rough: bool, ending: str | None) -> None:
    """From `expect_from` on, here iteration 40, a run ends if it is 1.5 standard errors above the expected accuracy.

    A rough expectation ends runs only from `improve_until` on.
    """
    expected = AccuracyEstimate(accuracy=accuracy, standard_error=0.02, is_rough=is_rough)
    target = CARRIED.model_copy(update={"expected": expected})
    rule = RULE.model_copy(update={"improve_until": 80, "expect_from": 40})
    rising = curve([0.74, 0.78, 0.81, 0.84], [0.9] * 4)
    assert judge(rising, target, rule, 1000) == ending
    assert judge(rising, target, RULE.model_copy(update={"improve_until": 80, "expect_from": 41}), 1000) is None


@pytest.mark.parametrize(("among_all", "ending"), [(0.9, None), (0.72, None), (0.7, "reached"), (0.45, "reached")])
def test_judge_lowers_expected_accuracy_for_new_classes(among_all: float, ending: str | None) -> None:
    """Among the old classes, the run has an accuracy of 90%, and scratch was expected to have 80%.

    Scratch is then also assumed to have 90%. Among all classes, it is assumed to keep the same share of this accuracy
    as the run.
    """
    points = [
        point.model_copy(update={"scope_among_all": among_all}) for point in curve([0.62, 0.66, 0.70, 0.73], [0.9] * 4)
    ]
    target = CARRIED.model_copy(update={"expected": AccuracyEstimate(accuracy=0.80, standard_error=0.0)})
    assert judge(points, target, RULE.model_copy(update={"improve_until": 30}), 1000) == ending


def test_expected_accuracy_shrinks_by_the_share_that_a_run_keeps() -> None:
    """Use means over the later half of the run's evaluations.

    Of the samples that are correct among the old classes, three quarters are also correct among all classes.
    """
    kept = [0.1, 0.1, 0.5, 0.7]
    points = [
        point.model_copy(update={"scope_among_all": value})
        for point, value in zip(curve([0.5] * 4, [0.8] * 4), kept, strict=True)
    ]
    planned = AccuracyEstimate(accuracy=0.80, standard_error=0.04)
    target = target_at(0.8).model_copy(update={"expected": planned, "standard_error": 0.04})  # 0.8 on 100 samples
    expected = expect_scratch(points, target)
    assert expected is not None
    assert expected.accuracy == pytest.approx(0.8 * 0.75)
    better = [point.model_copy(update={"in_scope": 0.9, "scope_among_all": 0.72}) for point in points]
    raised = expect_scratch(better, target)
    assert raised is not None
    assert raised.accuracy == pytest.approx(0.72), "scratch is assumed to be as accurate as the run"
    rough = target.model_copy(update={"expected": planned.model_copy(update={"is_rough": True})})
    kept_share = expect_scratch(better, rough)
    assert kept_share is not None
    assert kept_share.accuracy == pytest.approx(0.8 * 0.8), "a rough estimate is not raised to the run's accuracy"
    share_error = math.sqrt(0.75 * 0.25 / 80)  # for the 80 samples that are correct among the old classes
    assert expected.standard_error == pytest.approx(math.hypot(0.75 * 0.04, 0.8 * share_error))


@pytest.mark.parametrize("kept", [None, 0.7, 0.8])
def test_expected_accuracy_is_the_plans_without_new_classes(kept: float | None) -> None:
    points = [point.model_copy(update={"scope_among_all": kept}) for point in curve([0.5] * 2, [0.7] * 2)]
    planned = AccuracyEstimate(accuracy=0.80, standard_error=0.0)
    assert expect_scratch(points, CARRIED.model_copy(update={"expected": planned})) == planned
    assert expect_scratch(points, CARRIED) is None, "the target has no expected accuracy"


def test_judge_needs_more_gain_far_above_a_carried_target() -> None:
    points = curve([0.80, 0.81, 0.82, 0.83, 0.84, 0.85], [0.9] * 6)
    assert judge(points, CARRIED, RULE, 1000) is None
    assert judge(points, CARRIED, RULE.model_copy(update={"excess": 0.02}), 1000) == "reached"
    little_above = curve([0.80, 0.81, 0.82, 0.83, 0.84, 0.85], [0.81] * 6)
    assert judge(little_above, CARRIED, RULE.model_copy(update={"excess": 0.02}), 1000) is None


@pytest.mark.parametrize(("expected", "ending"), [(0.80, "reached"), (0.90, None)])
def test_judge_needs_more_gain_only_above_the_expected_accuracy(expected: float, ending: str | None) -> None:
    """With twice the images, a run is soon far above the carried target. Scratch would be, too."""
    scratch = AccuracyEstimate(accuracy=expected, standard_error=0.2, is_rough=True)
    target = CARRIED.model_copy(update={"expected": scratch})
    points = curve([0.80, 0.81, 0.82, 0.83, 0.84, 0.85], [0.9] * 6)
    assert judge(points, target, RULE.model_copy(update={"excess": 0.02}), 1000) == ending


def test_judge_needs_more_gain_only_if_new_data_is_learnt() -> None:
    """A high accuracy on old classes does not show that new classes have been learnt."""
    lenient = RULE.model_copy(update={"excess": 0.02})
    rising = curve([0.80, 0.81, 0.82, 0.83, 0.84, 0.85], [0.9] * 6)
    learnt, unlearnt = ([point.model_copy(update={"newest": new}) for point in rising] for new in (0.9, 0.3))
    assert judge(learnt, CARRIED, lenient, 1000) == "reached"
    assert judge(unlearnt, CARRIED, lenient, 1000) is None


def test_judge_ignores_dips_smaller_than_the_needed_gain() -> None:
    """An accuracy of 0.03 below the best one is a dip if the needed gain is 0.01, but not if it is 0.06."""
    points = curve([0.80, 0.80, 0.77, 0.77, 0.77], [0.9] * 5)
    patient = RULE.model_copy(update={"patience": 400})
    assert judge(points, CARRIED, patient, 1000) is None
    assert judge(points, CARRIED, patient.model_copy(update={"excess": 0.02}), 1000) == "reached"


@pytest.mark.parametrize(("below", "ending"), [(0.019, "reached"), (0.021, "plateau")])
@pytest.mark.parametrize("is_carried", [False, True])
def test_judge_reports_a_plateau_only_below_the_tolerance(below: float, ending: str, is_carried: bool) -> None:
    rule, reading = RULE.model_copy(update={"tolerance": 0.02}), [0.8 - below] * 10
    target, points = (CARRIED, curve([0.5] * 10, reading)) if is_carried else (target_at(0.8), curve(reading))
    assert judge(points[:3], target, rule, 1000) is None
    assert judge(points, target, rule, 1000) == ending


def test_judge_ends_a_rising_run_without_expectation_in_time() -> None:
    """A run that rises slowly ends from `improve_until` on, here iteration 50. Other runs end from iteration 100 on."""
    limited = RULE.model_copy(update={"improve_until": 50})
    points = curve([0.3 + 0.05 * step for step in range(10)], [0.9] * 10)
    assert judge(points, CARRIED, RULE, 1000) is None
    assert judge(points[:9], CARRIED, limited, 1000) is None
    assert judge(points, CARRIED, limited, 1000) == "reached"
    slow = curve([0.7 + 0.0025 * step for step in range(5)], [0.9] * 5)
    greedy = limited.model_copy(update={"gain": 0.0})
    assert judge(slow[:4], CARRIED, greedy, 1000) is None, "before `improve_until`"
    assert judge(slow, CARRIED, greedy, 1000) == "reached"
    below = curve([0.5, 0.55, 0.6, 0.65, 0.7, 0.75], [0.7, 0.72, 0.74, 0.76, 0.78, 0.79])
    assert judge(below, CARRIED, limited, 1000) is None, "the run is below its target"


@pytest.mark.parametrize(("last", "margin"), [(5, 1.0), (6, 0.8), (8, 0.4), (9, 0.2)])
def test_judge_lowers_its_margin_the_later_a_run_ends(last: int, margin: float) -> None:
    """The margin falls from one standard error at `improve_until`, here 50 iterations, to zero at twice that."""
    limited = RULE.model_copy(update={"improve_until": 50})
    points = curve([0.2 + 0.05 * step for step in range(last)], [0.9] * last)
    least = mean(point.score for point in points[-2:]) - margin * 0.02
    for expected, ending in ((least - 1e-6, "reached"), (least + 1e-6, None)):
        near = AccuracyEstimate(accuracy=expected, standard_error=0.02)
        assert judge(points, CARRIED.model_copy(update={"expected": near}), limited, 1000) == ending


def test_judge_ends_a_run_at_its_target_in_time() -> None:
    """A run ends from twice `improve_until` on, here 100 iterations, or with its budget, even if it improves fast."""
    far = CARRIED.model_copy(update={"expected": AccuracyEstimate(accuracy=0.99, standard_error=0.0)})
    limited = RULE.model_copy(update={"improve_until": 50})
    points = curve([0.2 + 0.05 * step for step in range(10)], [0.9] * 10)
    assert judge(points[:9], far, limited, 1000) is None
    assert judge(points, far, limited, 1000) == "reached"
    assert judge(points[:5], far, RULE, 50) == "reached"
    assert judge([*points[:4], points[4].model_copy(update={"in_scope": 0.7})], far, RULE, 50) == "missed"


@pytest.mark.parametrize(("rise", "ending"), [(0.0025, "reached"), (0.005, None)])
def test_judge_ends_a_late_slow_run_below_the_expected_accuracy(rise: float, ending: str | None) -> None:
    """The expected accuracy may be wrong. A run that hardly improves ends even below it."""
    limited = RULE.model_copy(update={"improve_until": 50, "gain": 0.0})
    far = CARRIED.model_copy(update={"expected": AccuracyEstimate(accuracy=0.9, standard_error=0.02)})
    points = curve([0.7 + rise * step for step in range(6)], [0.9] * 6)
    assert judge(points, far, limited, 1000) == ending
    assert judge(points[:4], far, limited, 1000) is None, "before `improve_until`"


@pytest.mark.parametrize(("rise", "ending"), [(0.003, "reached"), (0.005, None)])
def test_judge_looks_back_further_on_few_samples(rise: float, ending: str | None) -> None:
    """On 400 images, two equal scores in a row may be noise, so the rise over several windows counts."""
    limited = RULE.model_copy(update={"improve_until": 75, "gain": 0.0})
    far = CARRIED.model_copy(update={"expected": AccuracyEstimate(accuracy=0.9, standard_error=0.02)})
    scores = [0.5 + rise * min(step, 12) for step in range(14)]
    points = [point.model_copy(update={"images": 400}) for point in curve(scores, [0.9] * 14)]
    assert judge(points, far, limited, 1000) == ending


NOISY = [0.70, 0.73, 0.71, 0.74, 0.72, 0.73, 0.74, 0.73, 0.74, 0.73, 0.74, 0.74]
"""Scores on few samples. After the first third, they seem to stay the same."""


def noisy_curve(fall: float, images: int) -> list[Point]:
    """Return points with the scores `NOISY`. Their loss starts at 1 and falls by `fall` with every evaluation."""
    points = curve(NOISY, [0.9] * len(NOISY))
    return [point.model_copy(update={"loss": 1 - fall * step, "images": images}) for step, point in enumerate(points)]


@pytest.mark.parametrize(
    ("fall", "images", "ending"),
    [
        (0.02, 400, None),
        (0.0, 400, "reached"),
        (-0.02, 400, "reached"),  # the loss of a fitted network may rise while its accuracy stays
        (0.02, 600, "reached"),  # enough images to decide by the accuracy
    ],
)
def test_judge_waits_on_few_samples_while_the_loss_falls(fall: float, images: int, ending: str | None) -> None:
    rule = RULE.model_copy(update={"gain": 0.0005})
    assert judge(noisy_curve(fall, images), CARRIED, rule, 1000) == ending
    limited = rule.model_copy(update={"improve_until": 60})
    assert judge(noisy_curve(fall, images), CARRIED, limited, 1000) == "reached", (
        "from twice `improve_until` on, every run ends"
    )


def test_falling_loss_counts_by_the_slope_of_the_score() -> None:
    """The score rises half as fast as the loss falls: by 0.01 within the rule's window of two evaluations."""
    points = [
        point.model_copy(update={"loss": 1 - 0.01 * step})
        for step, point in enumerate(curve([0.5 + 0.005 * step for step in range(8)]))
    ]
    assert still_learns(points, RULE.model_copy(update={"gain": 0.0099}))
    assert not still_learns(points, RULE.model_copy(update={"gain": 0.0101}))
    assert not still_learns(points[:4], RULE.model_copy(update={"gain": 0.0})), "too few to estimate a slope"
    unknown = [*points[:-1], points[-1].model_copy(update={"loss": None})]
    assert not still_learns(unknown, RULE.model_copy(update={"gain": 0.0}))


@pytest.mark.parametrize(("in_scope", "ending"), [(0.791, "reached"), (0.789, None)])
def test_judge_allows_a_late_run_half_an_error_below_target(in_scope: float, ending: str | None) -> None:
    limited = RULE.model_copy(update={"improve_until": 50})
    target = CARRIED.model_copy(update={"accuracy": 0.8, "standard_error": 0.02})
    points = curve([0.3 + 0.05 * step for step in range(10)], [in_scope] * 10)
    assert judge(points, target, limited, 1000) == ending
    assert judge(points[:4], target, limited, 1000) is None, "before `improve_until`"


def test_judge_takes_the_mean_of_the_last_evaluations() -> None:
    """With a baseline's few validation samples, single evaluations vary around the target."""
    points = curve([0.7] * 4, [0.81, 0.78, 0.79, 0.82])
    assert judge(points[:3], CARRIED, RULE, 1000) is None
    assert judge(points, CARRIED, RULE, 1000) == "reached"


def test_needed_gain_is_the_larger_of_minimum_and_errors() -> None:
    (point,) = curve([0.5])
    assert needed_gain(point, RULE) == 0.01
    assert needed_gain(point, RULE.model_copy(update={"errors": 5.0})) == pytest.approx(5 * 0.005)


def test_few_validation_samples_lengthen_the_windows() -> None:
    """An accuracy of 50% on 100 images has a standard error of 5 percentage points.

    The windows are five times as long, because an error of up to 1 point does not lengthen them.
    """
    (point,) = curve([0.5])
    assert noise_factor(point) == 1
    assert noise_factor(point.model_copy(update={"images": 100})) == pytest.approx(5)
    few = [each.model_copy(update={"images": 100}) for each in curve([0.7] * 12, [0.9] * 12)]
    assert judge(curve([0.7] * 4, [0.9] * 4), CARRIED, RULE, 1000) == "reached"
    assert [judge(few[:count], CARRIED, RULE, 1000) for count in (4, 10, 11)] == [None, None, "reached"]


@pytest.mark.parametrize("seed", range(20))
def test_has_plateau_equals_a_search_by_hand(seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    values = torch.rand(12, generator=drawn).tolist()
    for window in (5, 10, 30, 200):
        early = [value for number, value in enumerate(values, 1) if 120 - 10 * number >= window]
        late = [value for number, value in enumerate(values, 1) if 120 - 10 * number < window]
        expected = bool(early) and max(late, default=0.0) - max(early) < 0.1
        assert has_plateau(curve(values), "score", window, 0.1) is expected
    assert has_plateau(curve(values), "newest", 10, 0.1)


def test_stop_rule_resolves_shares_of_s_scratch() -> None:
    rule = StopRule.of(Stopping(), s_scratch=1250, evaluate_every=30)
    assert (rule.window, rule.patience, rule.gain, rule.errors, rule.excess) == (100, 150, 0.0025, 0.5, 0.02)
    assert (rule.improve_until, rule.expect_from) == (500, 500)
    assert StopRule.of(Stopping(), 1250, 30, missing_fit=0.0).expect_from == 250
    assert StopRule.of(Stopping(), s_scratch=500, evaluate_every=30).window == 60
