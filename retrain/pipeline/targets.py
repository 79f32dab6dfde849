"""What a run has to reach, by the scratch run that it is held against: pure functions over records."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from retrain.recipe.speed_up import first_reaching
from retrain.records import Curve, Dataset, Result, RunRecord, Target

EARLIEST_SHARE = 0.75
"""A run's target is not expected before this share of the iterations that the quickest run of its task has taken."""


class Measured(NamedTuple):
    """A scratch run that targets may come from: one of equal work with the task."""

    record: RunRecord
    result: Result
    curve: Curve


def make_target(level: float, dataset: Dataset, baseline: Measured, records: Mapping[str, RunRecord]) -> Target:
    """Return level/100 of the baseline's accuracy, and when its curve reached that (Verwimp et al., eqs. 1 and 2)."""
    accuracy = level / 100 * baseline.result.final_accuracy
    iterations = [point.iteration for point in baseline.curve.points]
    reached = first_reaching(iterations, [point.accuracy for point in baseline.curve.points], accuracy)
    s_scratch = reached or baseline.result.iterations
    return Target(
        level=level,
        accuracy=accuracy,
        baseline_run=baseline.record.run_id,
        baseline_accuracy=baseline.result.final_accuracy,
        baseline_iterations=s_scratch,
        baseline_reached_at=baseline.result.reached_at,
        provenance="measured" if baseline.record.dataset_digest == dataset.digest else "carried",
        age=age_of(dataset, baseline),
        expected_from=round(EARLIEST_SHARE * _earliest(records.values()) * s_scratch),
    )


def age_of(dataset: Dataset, baseline: Measured) -> int:
    """Return how many drops of a dataset the baseline did not see."""
    return len({drop.id for drop in dataset.drops} - set(baseline.record.drops))


def _earliest(records: Iterable[RunRecord]) -> float:
    """The least share of s_scratch after which a retraining of this task came within 99 percent; 0: none has yet."""
    shares = (
        (record.result.reached_at["99"] or record.result.iterations) / record.target.baseline_iterations
        for record in records
        if record.outcome == "reached" and record.purpose == "retrain" and record.result and record.target
    )
    return min(shares, default=0.0)
