"""When evaluation may stop early, and when a run has reached its target.

A subset of val may say "not yet"; only the whole of it says "reached".
"""

import math

LOWEST_LEVEL = 99.0
"""From this percentage of the baseline's accuracy on, curves are exact on the whole of val: L_99 is read there."""


def upper_bound(correct: int, seen: int, total: int, alpha: float) -> float:
    """Return an upper bound of the accuracy over `total` samples, from `seen` of them drawn without replacement.

    It fails with probability `alpha` at most: Serfling's inequality (Serfling 1974, corollary 1.1), or the count of
    what is left where that is tighter.
    """
    margin = math.sqrt((1 - (seen - 1) / total) * math.log(1 / alpha) / (2 * seen))
    return min(correct / seen + margin, (correct + total - seen) / total)


def needed_accuracy(level: float, baseline_accuracy: float) -> float:
    """Return the lowest accuracy of interest: below it, the exact figure decides nothing."""
    return min(level, LOWEST_LEVEL) / 100 * baseline_accuracy
