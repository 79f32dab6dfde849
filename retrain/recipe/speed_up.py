"""Speed-up: how much sooner than scratch a run reaches an accuracy (Verwimp et al., section 2).

A curve is (iterations, accuracies) with an entry for each evaluation. Iterations rise and are above 0. Speed-ups
compare iterations. This is fair only between runs with the same architecture, batch size and evaluation interval.
"""

from collections.abc import Sequence
from typing import Literal

from retrain.records import Point, Target

LEVELS: tuple[Literal["99", "100"], ...] = ("99", "100")

Crossings = dict[Literal["99", "100"], int | None]
"""Iterations at which a curve first reached 99 and 100 percent of an accuracy. None if it never did."""


def first_reaching(iterations: Sequence[int], accuracies: Sequence[float], accuracy: float) -> int | None:
    """Return s(f, a), the first iteration at which `accuracy` is reached (eq. 1). None if it never is.

    Raises ValueError if the two sequences differ in length.
    """
    reached = (iteration for iteration, value in zip(iterations, accuracies, strict=True) if value >= accuracy)
    return next(reached, None)


def speed_up(scratch: int | None, other: int | None) -> float | None:
    """Return L_r = s(scratch, a_scratch) / s(other, r/100 · a_scratch), from the two numbers of iterations (eq. 2).

    The numerator is the same at every r: scratch's iterations to its own accuracy. Therefore scratch's own L_99 is
    above 1. a_scratch is the accuracy that scratch ends with. Its highest accuracy would depend on chance, as the best
    of many noisy evaluations. Returns None if `other` never reaches the level, or if scratch's iterations are unknown.
    The paper's tables show `/` in this case.
    """
    return None if scratch is None or other is None else scratch / other


def crossings(points: list[Point], accuracy: float) -> Crossings:
    """Return the iterations at which a curve's score first reached 99 and 100 percent of an accuracy (eq. 1)."""
    iterations, scores = [point.iteration for point in points], [point.score for point in points]
    return {level: first_reaching(iterations, scores, int(level) / 100 * accuracy) for level in LEVELS}


def speed_ups(reached_at: Crossings, target: Target | None) -> dict[Literal["99", "100"], float | None]:
    """Return L_99 and L_100 (eq. 2) if scratch was measured on the same dataset.

    A run without a target is its own reference, so it has no speed-up. A carried target concerns only the baseline's
    samples and classes, so it does not show how much sooner the whole dataset was learnt.
    """
    if target is None or target.scope is not None:
        return dict.fromkeys(LEVELS)
    s_scratch = target.baseline_reached_at["100"]
    return {level: speed_up(s_scratch, reached_at[level]) for level in LEVELS}
