"""Speed-ups equal the papers' equations, written out by hand."""

from collections.abc import Sequence
from random import Random

import pytest
from support.studying import ended_run
from support.trainings import target_at

from retrain.experiments.statistics import ratio
from retrain.recipe.speed_up import crossings, first_reaching, speed_up, speed_ups

Points = tuple[Sequence[int], Sequence[float]]

SCRATCH = ([100, 200, 300, 400, 500], [0.30, 0.55, 0.68, 0.74, 0.70])


def test_first_reaching_equals_a_search_by_hand() -> None:
    iterations, accuracies = SCRATCH
    for accuracy in (0.0, 0.30, 0.300001, 0.55, 0.66, 0.69, 0.70, 0.75):
        expected = None
        for i in range(len(iterations)):
            if accuracies[i] >= accuracy and expected is None:
                expected = iterations[i]
        assert first_reaching(iterations, accuracies, accuracy) == expected


def test_level_stays_reached_if_accuracy_falls_again() -> None:
    assert first_reaching([10, 20, 30], [0.5, 0.8, 0.4], 0.7) == 20


def test_empty_curve_reaches_nothing_and_unequal_lengths_fail() -> None:
    assert first_reaching([], [], 0.0) is None
    with pytest.raises(ValueError, match="shorter"):
        first_reaching([10, 20], [0.1], 0.9)


def level(scratch: Points, other: Points, r: float) -> float | None:
    """Return L_r as studies compute it."""
    first, second = (ended_run("any", 0, dict(zip(*points, strict=True))).curve for points in (scratch, other))
    return ratio(first, second, r)


def test_speed_up_divides_scratch_by_the_other_run() -> None:
    assert speed_up(400, 100) == 4.0
    assert speed_up(100, 400) == 0.25
    assert speed_up(None, 100) is None
    assert speed_up(400, None) is None


def test_speed_up_divides_scratchs_iterations_to_100_percent() -> None:
    other = ([50, 100, 150], [0.60, 0.695, 0.70])
    assert level(SCRATCH, other, 100) == 400 / 150
    assert level(SCRATCH, other, 99) == 400 / 100
    assert level(SCRATCH, other, 95) == 400 / 100
    assert level(SCRATCH, other, 80) == 400 / 50


def test_speed_up_equals_equation_2_on_random_curves() -> None:
    random = Random(0)
    for _ in range(50):
        scratch, other = ([(10 * k, random.random()) for k in range(1, 9)] for _ in range(2))
        a_scratch = scratch[-1][1]
        numerator = min(iteration for iteration, accuracy in scratch if accuracy >= a_scratch)
        for r in (50, 99, 100):
            reaching = [iteration for iteration, accuracy in other if accuracy >= r / 100 * a_scratch]
            expected = numerator / min(reaching) if reaching else None
            first, second = (tuple(zip(*curve, strict=True)) for curve in (scratch, other))
            assert level(first, second, r) == expected


def test_crossings_are_at_99_and_100_percent_of_an_accuracy() -> None:
    points = ended_run("any", 0, {10: 0.789, 20: 0.793, 30: 0.799, 40: 0.8, 50: 0.7}).curve.points
    assert crossings(points, 0.8) == {"99": 20, "100": 40}
    assert crossings(points, 0.805) == {"99": 30, "100": None}


def test_result_divides_scratchs_iterations_to_100_percent() -> None:
    target = target_at(0.8).model_copy(update={"baseline_reached_at": {"99": 90, "100": 300}})
    assert speed_ups({"99": 60, "100": 150}, target) == {"99": 5.0, "100": 2.0}
    assert speed_ups({"99": 60, "100": None}, target) == {"99": 5.0, "100": None}
    assert speed_ups({"99": 60, "100": 150}, None) == {"99": None, "100": None}


def test_level_is_relative_to_scratchs_final_accuracy() -> None:
    assert level(([10, 20, 30], [0.5, 0.9, 0.6]), ([5, 10], [0.4, 0.6]), 100) == 20 / 10


def test_scratch_has_a_speed_up_over_itself_below_100_percent() -> None:
    assert [level(SCRATCH, SCRATCH, r) for r in (1, 50, 99, 100)] == [4, 2, 1, 1]
    assert level(SCRATCH, ([400, 800], [0.5, 0.7]), 100) == 0.5


def test_unreached_level_has_no_speed_up() -> None:
    assert level(SCRATCH, ([100, 200], [0.60, 0.699]), 100) is None
    assert level(SCRATCH, ([100, 200], [0.60, 0.741]), 106) is None
