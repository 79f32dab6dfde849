"""Compare the newest runs with their baselines: the scratch runs from which their targets were computed."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from retrain.records import Curve, RunRecord

SHOWN = 6
"""Number of newest runs that the page compares with their baselines."""

CurveName = Literal["scratch", "this run"]


class Crossing(NamedTuple):
    """Point at which a curve first reached 99 or 100 percent of the baseline's score."""

    curve: CurveName
    level: Literal["99", "100"]
    iteration: int
    score: float


class BaselineComparison(NamedTuple):
    """The curves of a run with a target and of its baseline, if they are still in the store.

    A target that was carried over from a scratch run on fewer drops has a scope: the samples and classes of that run.
    Both curves then show the scores on this scope.
    """

    record: RunRecord
    target: float
    curves: Mapping[CurveName, Curve]
    crossings: tuple[Crossing, ...]


def newest_with_targets(records: Sequence[RunRecord]) -> list[tuple[RunRecord, str]]:
    """Return the newest runs that had a target, newest first, each with the id of its baseline's run."""
    chosen = [(record, record.target.baseline_run) for record in reversed(records) if record.target and record.result]
    return chosen[:SHOWN]


def compare_with_baselines(records: Sequence[RunRecord], curves: Mapping[str, Curve]) -> list[BaselineComparison]:
    """Return the newest runs that have a target and a curve, newest first, each with its baseline."""
    return [
        _compare(record, {"scratch": curves.get(baseline, Curve()), "this run": curves[record.run_id]})
        for record, baseline in newest_with_targets(records)
        if record.run_id in curves
    ]


def _compare(record: RunRecord, curves: Mapping[CurveName, Curve]) -> BaselineComparison:
    if record.target is None or record.result is None:
        raise ValueError(f"{record.run_id} has no target or no result")
    if record.target.scope:
        curves = {**curves, "this run": _within_scope(curves["this run"])}
    reached = {"scratch": record.target.baseline_reached_at, "this run": record.result.reached_at}
    crossings = (
        Crossing(name, level, point.iteration, point.score)
        for name, curve in curves.items()
        for level, iteration in reached[name].items()
        for point in curve.points
        if point.iteration == iteration
    )
    return BaselineComparison(record, record.target.accuracy, curves, tuple(crossings))


def _within_scope(curve: Curve) -> Curve:
    """Return a run's curve on the samples and classes that its target was measured on."""
    points = (
        point.model_copy(update={"score": point.in_scope}) for point in curve.points if point.in_scope is not None
    )
    return Curve(points=tuple(points))
