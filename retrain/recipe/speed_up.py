"""Speed-up: how much sooner than scratch a run reaches an accuracy (Verwimp et al., section 2).

A curve is (iterations, accuracies): one entry for each evaluation, in rising order of iterations. Speed-ups compare
iterations, which is fair only between runs of one architecture and batch size, evaluated on the same grid.
"""

import math
from collections.abc import Sequence

Points = tuple[Sequence[int], Sequence[float]]


def first_reaching(iterations: Sequence[int], accuracies: Sequence[float], accuracy: float) -> int | None:
    """Return s(f, a), the first iteration at which `accuracy` is reached (eq. 1); None if it never is.

    Raises ValueError if the two sequences differ in length.
    """
    reached = (iteration for iteration, value in zip(iterations, accuracies, strict=True) if value >= accuracy)
    return next(reached, None)


def speed_up(scratch: Points, other: Points, level: float) -> float | None:
    """Return L_r = s(scratch, r/100 · a_scratch) / s(other, r/100 · a_scratch) for r = `level` (eq. 2).

    a_scratch is the accuracy that scratch ends with: its highest would be the luckiest of many noisy evaluations. None,
    `/` in the paper's tables, if `other` (or, above 100, scratch) never reaches the level; infinite if `other` is there
    before its first iteration.
    """
    accuracy = level / 100 * scratch[1][-1]
    s_scratch, s_other = first_reaching(*scratch, accuracy), first_reaching(*other, accuracy)
    if s_scratch is None or s_other is None:
        return None
    return s_scratch / s_other if s_other else math.inf
