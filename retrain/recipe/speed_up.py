"""Speed-up: how much sooner than scratch a run reaches an accuracy (Verwimp et al., section 2).

A curve is (iterations, accuracies), an entry for each evaluation, in rising order of iterations, all above 0. Speed-ups
compare iterations, which is fair only between runs of one architecture and batch size, evaluated on the same grid.
"""

from collections.abc import Sequence


def first_reaching(iterations: Sequence[int], accuracies: Sequence[float], accuracy: float) -> int | None:
    """Return s(f, a), the first iteration at which `accuracy` is reached (eq. 1); None if it never is.

    Raises ValueError if the two sequences differ in length.
    """
    reached = (iteration for iteration, value in zip(iterations, accuracies, strict=True) if value >= accuracy)
    return next(reached, None)


def speed_up(scratch: int | None, other: int | None) -> float | None:
    """Return L_r = s(scratch, a_scratch) / s(other, r/100 · a_scratch), from its two iterations (eq. 2).

    The numerator is the same at every r: what scratch takes to its own accuracy. So scratch's own L_99 is above 1.
    a_scratch is the accuracy that scratch ends with: its highest would be the luckiest of many noisy evaluations. None,
    `/` in the paper's tables, if `other` never reaches the level, or scratch's figure is unknown.
    """
    return None if scratch is None or other is None else scratch / other
