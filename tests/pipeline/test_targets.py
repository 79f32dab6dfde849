"""Targets and the estimated iterations of scratch equal computations written out in this file.

The expected accuracy of a target is the estimated accuracy of scratch on the dataset of the plan.
"""

import math

import pytest
from support.histories import CURVE, DEFAULT_TASK, TASK, Past, drop, one_drop
from support.trainings import target_at

from retrain.config.task import Task
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.targets import (
    IMAGES_EXPONENT,
    IMAGES_EXPONENT_ERROR,
    PRIOR_SPREAD,
    TYPICAL_SHARE,
    chance_level,
    plateau_tolerance,
    standard_error,
)
from retrain.records import Drop, Plan, ScratchEstimate


def test_carried_target_uses_the_baselines_samples_and_classes() -> None:
    past = one_drop().landed(drop(2, classes=("eel", "fox")))
    target = past.plan().target
    assert (target.scope.drops, target.scope.classes) == (("d-1",), 2)
    assert past.plan().dataset.classes == ("cat", "dog", "eel", "fox")
    assert target.standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 100)), (
        "the baseline was evaluated on 100 images"
    )


def test_target_has_the_standard_error_of_the_last_evaluation() -> None:
    """Earlier evaluations may have stopped after a part of val."""
    past = one_drop().landed(drop(2))
    run = past.scratch_runs[0]
    *early, last = run.curve.points
    points = (*(point.model_copy(update={"images": 50}) for point in early), last)
    past.scratch_runs[0] = run._replace(curve=run.curve.model_copy(update={"points": points}))
    assert past.plan().target.standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 100))
    past.scratch_runs[0] = run._replace(curve=run.curve.model_copy(update={"points": ()}))
    assert past.plan().target.standard_error == 0.0


def test_measured_target_covers_all_of_val() -> None:
    past = one_drop().landed(drop(2))
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    assert past.plan().target.scope is None
    assert past.plan().target.expected is None


def test_expected_accuracy_rises_with_images_per_class() -> None:
    expected = one_drop().landed(drop(2)).plan().target.expected
    error, measured = 0.2 / 2**IMAGES_EXPONENT, math.sqrt(0.8 * 0.2 / 100) / 0.2
    assert expected.accuracy == pytest.approx(1 - error)
    assert expected.standard_error == pytest.approx(error * math.hypot(measured, IMAGES_EXPONENT_ERROR * math.log(2)))
    assert expected.is_rough


def test_no_accuracy_is_expected_for_other_metrics() -> None:
    task = Task.model_validate(DEFAULT_TASK.model_dump() | {"target": {"metric": "macro_f1"}})
    target = one_drop(task).landed(drop(2)).plan().target
    assert target.provenance == "carried"
    assert target.expected is None


def test_expected_accuracy_stays_if_only_classes_are_added() -> None:
    """The expected accuracy covers the baseline's classes only. The effect of later classes is unknown."""
    expected = one_drop().landed(drop(2, classes=("eel", "fox"))).plan().target.expected
    assert expected.accuracy == pytest.approx(0.8)
    assert expected.standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 100))
    assert not expected.is_rough


def test_baseline_on_this_dataset_is_preferred_to_a_newer_one() -> None:
    past = one_drop().landed(drop(2))
    calibration = past.plan(Request(purpose="calibrate"))
    past.ended(calibration, promoted=None)
    other = Past().landed(drop(7))
    other.ended(other.plan())
    past.scratch_runs.insert(0, other.scratch_runs[0])
    assert past.plan().target.baseline_run == calibration.run_id


@pytest.mark.parametrize(
    ("accuracy", "is_target"), [(0.5, False), (0.549, False), (0.55, False), (0.551, True), (0.3, False)]
)
def test_target_is_never_near_the_chance_level(accuracy: float, is_target: bool) -> None:
    """With two equally frequent classes, guessing reaches 50%. The standard error on 100 images is 5%."""
    past = Past().landed(drop(1))
    past.ended(past.plan(), accuracy=accuracy)
    plan = past.landed(drop(2)).plan()
    assert (plan.target is not None, plan.method == "continuous") == (is_target, is_target)
    if not is_target:
        assert "no better than always predicting the most common class (50.00%, standard error 5.00%)" in plan.reason


def test_chance_level_is_the_share_of_the_most_common_class() -> None:
    counts = {"train": {"cat": 500}, "val": {"cat": 90, "dog": 10}, "test": {"cat": 50}}
    uneven = drop(1).model_copy(update={"counts": counts})
    past = Past().landed(uneven)
    past.ended(past.plan(), accuracy=0.9)
    assert past.landed(drop(2)).plan().method == "scratch"
    assert chance_level([uneven], 2) == 0.9
    assert chance_level([], 4) == 1 / 4


def test_target_needs_validation_images_of_the_baselines_drops() -> None:
    """All these images can be erased. A run could then not measure a score in the target's scope."""
    past = one_drop()
    (first,) = past.drops
    past.drops[0] = first.model_copy(update={"counts": {**first.counts, "val": {}}})
    plan = past.landed(drop(2)).plan()
    assert (plan.method, plan.target) == ("scratch", None)
    assert "no validation image of the drops that" in plan.reason


def test_scratch_is_estimated_by_the_shares_of_its_schedules() -> None:
    """A scratch run's share is its iterations to its final accuracy, divided by its schedule.

    The estimate is the mean share times the new schedule. The typical share counts as the share of one more run.
    """
    past = one_drop().landed(drop(2, samples=300))
    _assert_estimated(past.plan().scratch, [200 / 250], 800)
    past.ended(past.plan(Request("scratch")), iterations=400)
    _assert_estimated(past.landed(drop(3)).plan().scratch, [200 / 250, 200 / 400], 1300)


def _assert_estimated(scratch: ScratchEstimate | None, shares: list[float], schedule: int) -> None:
    assert scratch
    mean = (TYPICAL_SHARE + sum(shares)) / (1 + len(shares))
    squares = (PRIOR_SPREAD * mean) ** 2 + sum((share - mean) ** 2 for share in shares)
    assert scratch.iterations == pytest.approx(mean * schedule, abs=0.1)
    assert scratch.standard_error == pytest.approx(math.sqrt(squares / len(shares)) * schedule, abs=0.1)
    assert (scratch.schedule, scratch.provenance, scratch.runs) == (schedule, "estimated", len(shares))


def test_scratch_is_measured_if_trained_on_this_dataset() -> None:
    past = one_drop().landed(drop(2))
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    scratch = past.plan().scratch
    assert (scratch.iterations, scratch.schedule, scratch.standard_error) == (200, 1000, 0)
    assert (scratch.provenance, scratch.runs) == ("measured", 1)
    assert CURVE[3] == (200, 0.82)


def test_trial_without_any_baseline_has_a_typical_estimate() -> None:
    past = one_drop().landed(drop(2))
    past.scratch_runs = []
    plan = past.plan(Request("naive", "trial"))
    assert (plan.target, plan.scratch.runs, plan.scratch.provenance) == (None, 0, "estimated")
    assert plan.scratch.iterations == pytest.approx(0.62 * 1000)


def default_plan(past: Past) -> Plan:
    planned = past.next(task=DEFAULT_TASK)
    assert not isinstance(planned, NoRunNeeded)
    return planned


def default_past() -> Past:
    """Return a history with default settings: a champion from scratch on 500 images, and a second drop."""
    return one_drop(DEFAULT_TASK).landed(drop(2))


def test_default_run_has_a_stop_rule_and_scratchs_budget() -> None:
    """Scratch trains for 1,000 iterations here. Evaluations are 67 iterations apart.

    A window contains at least two evaluations.
    """
    plan = default_past().plan()
    assert (plan.iterations, plan.recipe.schedule.name, plan.evaluate_every) == (1000, "constant", 67)
    stopping, rule = DEFAULT_TASK.training.stopping, plan.stop_rule
    assert rule.window == max(round(stopping.plateau_window * plan.scratch.iterations), 2 * 67)
    assert rule.patience == round(stopping.patience * rule.window)
    assert (rule.confirmations, rule.gain) == (stopping.confirmations, stopping.plateau_gain)


@pytest.mark.parametrize(("train_accuracy", "share"), [(None, 0.4), (0.85, 0.4), (0.92, 0.3), (1.0, 0.2)])
def test_expectation_is_used_earlier_for_a_fitted_parent(train_accuracy: float | None, share: float) -> None:
    """A parent with a validation error of 20% is fitted up to a training error of 4%, and under-fitted from 12% on."""
    past = default_past()
    record = past.records[-1]
    result = record.result.model_copy(update={"train_accuracy": train_accuracy, "final_accuracy": 0.8})
    past.records[-1] = record.model_copy(update={"result": result})
    plan = past.plan()
    assert plan.stop_rule.expect_from == round(share * plan.scratch.iterations)
    assert plan.stop_rule.improve_until == round(0.4 * plan.scratch.iterations)


def test_run_with_a_cosine_schedule_trains_to_its_end() -> None:
    plan = one_drop().landed(drop(2, samples=100)).plan()
    assert plan.recipe.schedule.name == "cosine"
    assert plan.stop_rule.patience is None
    measured = one_drop().landed(drop(2))
    measured.ended(measured.plan(Request(purpose="calibrate")), promoted=None)
    assert measured.plan().stop_rule is None, (
        "with a measured target, a run stops at the first evaluation at its target, as in the papers"
    )


def test_evaluations_are_60_or_cost_a_tenth_of_the_training() -> None:
    """Evaluating a batch costs a third of an iteration.

    200 val images in batches of ten cost 200 / 10 / 3 = 6.7 iterations. This is a tenth of 67 iterations.
    """
    past = default_past()
    assert {past.plan(Request(method)).evaluate_every for method in ("scratch", "naive", "continuous")} == {67}
    few = Past(DEFAULT_TASK).landed(with_val(1, 10))
    assert few.plan().evaluate_every == round(500 / 60)
    assert Past(DEFAULT_TASK).landed(drop(1, samples=3000)).plan().evaluate_every == 3000 / 60
    many = Past(DEFAULT_TASK).landed(with_val(1, 400))
    assert many.plan().evaluate_every == math.ceil(10 * 400 / 3 / 10)
    assert Past(TASK).landed(with_val(1, 400)).plan().evaluate_every == 50


def with_val(number: int, images: int) -> Drop:
    one = drop(number)
    return one.model_copy(update={"counts": {**one.counts, "val": {"cat": images // 2, "dog": images // 2}}})


def test_averaging_follows_the_preset_unless_the_task_sets_it() -> None:
    def kind(**parts: object) -> str:
        settings = {"name": "pets", "training": {"epochs": 10, "batch_size": 10}} | parts
        return Past(Task.model_validate(settings)).landed(drop(1)).plan().averaging.kind

    assert kind() == "power"
    assert kind(recipe={"preset": "paper"}) == kind(recipe={"preset": "naive"}) == "none"
    assert kind(training={"averaging": "none"}) == "none"
    assert kind(recipe={"preset": "paper"}, training={"averaging": {"kind": "ema"}}) == "ema"


def test_reason_states_the_iterations_of_earlier_runs() -> None:
    past = default_past()
    assert "s_scratch" not in past.plan().reason
    past.ended(past.plan(), iterations=248)
    past.landed(drop(3))
    assert "the last retraining on another dataset took 35% of s_scratch; about 372 iterations" in past.plan().reason
    past.ended(past.plan(), "plateau", iterations=336, reached=False)
    third = past.landed(drop(4)).plan()
    assert "the last 2 retrainings on other datasets took 35% and 32% (plateau) of s_scratch" in third.reason


def test_reason_names_only_the_last_three_retrainings() -> None:
    past = default_past()
    for number, iterations in enumerate((100, 120, 140, 160), start=3):
        past.ended(past.plan(), iterations=iterations)
        past.landed(drop(number))
    assert "the last 3 retrainings on other datasets took" in past.plan().reason


def test_expected_iterations_are_within_the_limit() -> None:
    past = default_past()
    past.ended(past.plan(), iterations=700)
    plan = past.landed(drop(3)).plan()
    assert plan.stop_rule is not None
    assert f"about {2 * plan.stop_rule.improve_until:,} iterations are expected" in plan.reason
    for number in (4, 5, 6):
        past.ended(past.plan(), "missed", iterations=6000, reached=False)
        past.landed(drop(number))
    plan = past.plan()
    assert f"about {plan.iterations:,} iterations are expected" in plan.reason


def test_plan_warns_of_a_target_that_allows_no_error() -> None:
    past = Past().landed(drop(1))
    past.ended(past.plan(), accuracy=0.995)
    plan = past.landed(drop(2)).plan()
    assert "target 99.50% allows no error in 100 validation images" in plan.warnings[0]
    assert "test images are too few" in plan.warnings[1]
    assert [warning for warning in plan.warnings[1:] if warning.startswith("target")] == []


@pytest.mark.parametrize(("images", "needed"), [(100, "178"), (178, None)])
def test_plan_warns_of_an_uncertain_target(images: int, needed: str | None) -> None:
    past = one_drop().landed(drop(2))
    run = past.scratch_runs[0]
    points = tuple(point.model_copy(update={"images": images}) for point in run.curve.points)
    past.scratch_runs[0] = run._replace(curve=run.curve.model_copy(update={"points": points}))
    warned = [warning for warning in past.plan().warnings if "is uncertain by" in warning]
    assert len(warned) == bool(needed)
    assert all(f"with {needed} images the error would be 3%" in warning for warning in warned)
    assert all("run `retrain baseline` before the next retraining" in warning for warning in warned)


@pytest.mark.parametrize(("accuracy", "samples", "error"), [(0.8, 100, 0.04), (1.0, 66, 0.0148)])
def test_plateau_tolerance_is_a_confidence_bound(accuracy: float, samples: int, error: float) -> None:
    target = target_at(0.8).model_copy(update={"standard_error": standard_error(accuracy, samples)})
    assert plateau_tolerance(target, samples) == pytest.approx(1.645 * error, abs=1e-4)


def test_plan_states_the_tolerance_of_its_target() -> None:
    past = default_past()
    plan = past.landed(drop(3)).plan()
    assert plan.stop_rule.tolerance == pytest.approx(plateau_tolerance(plan.target, 100))
    without = plan.model_copy(update={"stop_rule": plan.stop_rule.model_copy(update={"tolerance": 0.0})})
    assert without.run_id == plan.run_id, "the id must not change, because runs of earlier versions are continued"
