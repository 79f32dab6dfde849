"""Compare the newest runs with the scratch runs that their targets come from, as in the papers' figures."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from retrain.records import Curve, RunRecord

SHOWN = 6
"""Number of newest runs that the page compares with their baselines."""

Runner = Literal["scratch", "this run"]


class Crossing(NamedTuple):
    """Point at which a curve first reached 99 or 100 percent of the baseline's score."""

    runner: Runner
    level: Literal["99", "100"]
    iteration: int
    score: float


class Race(NamedTuple):
    """The curves of a run with a target and of its baseline, as far as they are still in the store."""

    record: RunRecord
    target: float
    curves: Mapping[Runner, Curve]
    crossings: tuple[Crossing, ...]


def newest_races(records: Sequence[RunRecord]) -> list[tuple[RunRecord, str]]:
    """Return the newest runs that had a target, newest first, each with the id of its baseline's run."""
    chosen = [(record, record.target.baseline_run) for record in reversed(records) if record.target and record.result]
    return chosen[:SHOWN]


def speed_up_races(records: Sequence[RunRecord], curves: Mapping[str, Curve]) -> list[Race]:
    """Return the newest races whose own curve is known, newest first."""
    return [
        _race(record, {"scratch": curves.get(baseline, Curve()), "this run": curves[record.run_id]})
        for record, baseline in newest_races(records)
        if record.run_id in curves
    ]


def _race(record: RunRecord, curves: Mapping[Runner, Curve]) -> Race:
    if record.target is None or record.result is None:
        raise ValueError(f"{record.run_id} has no target or no result")
    reached = {"scratch": record.target.baseline_reached_at, "this run": record.result.reached_at}
    crossings = (
        Crossing(runner, level, point.iteration, point.score)
        for runner, curve in curves.items()
        for level, iteration in reached[runner].items()
        for point in curve.points
        if point.iteration == iteration
    )
    return Race(record, record.target.accuracy, curves, tuple(crossings))
