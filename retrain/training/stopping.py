"""When evaluation may stop early, and when a run ends.

A subset of val may say "not yet"; only the whole of it says "reached".
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from retrain.records import AccuracyEstimate, Point, Target
from retrain.records.plan import StopRule

LOWEST_LEVEL = 99.0
"""From this percentage of the baseline's accuracy on, curves are exact on the whole of val: L_99 is read there."""

RISK = 1e-3
"""Largest probability with which an evaluation gives up wrongly."""

EARLY_RISK = 0.5
"""The same for each look of its own, early in a run: it gives up if what it has seen is below what is needed."""

FIRST, GROWTH = 128, 1.5
"""Samples of the first look, and by how much each look is larger than the one before."""


def subset_ends(total: int) -> Iterator[int]:
    """Yield after how many of `total` samples to ask whether the rest can matter; at last, all of them."""
    size = FIRST
    while size < total:
        yield size
        size = math.ceil(size * GROWTH)
    yield total


def tail_probability(correct: int, seen: int, enough: int, total: int) -> float:
    """Return how likely at most `correct` of `seen` samples are right, where `enough` of all `total` are.

    The samples are drawn without replacement: the hypergeometric distribution. Where this is `risk` at most, giving up
    is wrong with probability `risk` at most, whatever the network: a better one fails more rarely still.
    """
    least, most = max(0, seen - (total - enough)), min(correct, enough)
    if most < least:
        return 0.0
    right = torch.arange(least, most + 1, dtype=torch.float64)
    logs = _ways(enough, right) + _ways(total - enough, seen - right) - _ways(total, torch.tensor(float(seen)))
    return float(logs.exp().sum())


def _ways(total: int, chosen: torch.Tensor) -> torch.Tensor:
    """Logarithm of the binomial coefficient."""
    return math.lgamma(total + 1) - torch.lgamma(chosen.double() + 1) - torch.lgamma(total - chosen.double() + 1)


def needed_accuracy(target: Target | None, rule: StopRule | None = None) -> float:
    """Return the lowest accuracy of interest: below it, the exact figure decides nothing.

    A stop rule and a target's scope ask for every figure.
    """
    if target is None or rule is not None or target.scope is not None:
        return 0.0
    return min(target.level, LOWEST_LEVEL) / 100 * target.baseline_accuracy


def is_early(target: Target | None, iteration: int) -> bool:
    """Say whether no run of the task has come near its target so early."""
    return target is not None and iteration < target.expected_from


def rejection_risk(early: bool, looks: int) -> float:
    """Return with which probability one of so many looks may give up wrongly."""
    return EARLY_RISK if early else RISK / looks


MARGIN_ERRORS = 0.5
"""Standard errors by which a run must be above the accuracy that is expected of scratch."""

Curve = Literal["score", "newest"]

IMPROVING: tuple[Curve, ...] = ("score", "newest")
"""The curves that have to stop improving: on all of val, and on the drops that the parent did not know."""

SMALL_ERROR = 0.01
"""Standard error of an accuracy that does not lengthen the rule's windows: that of 80% on 1,600 images."""

PATIENCE_SHARE = 0.7
"""Largest share of a run's iterations so far that its patience takes; a run younger than it is never given up."""


def judge(
    points: Sequence[Point], target: Target | None, rule: StopRule | None, budget: int
) -> Literal["reached", "plateau", "missed"] | None:
    """Say whether a run ends with its newest point, and how; `points` are all on the whole of val.

    `reached`: its last evaluations, as many as the rule confirms by, were all good enough. `missed`: the budget is
    spent. `plateau`: nothing has improved for the rule's patience. Where the budget ends there is nothing to wait for,
    so one evaluation suffices. Without a rule a run ends at its target's first crossing.
    """
    if target is None:
        return None
    spent = points[-1].iteration >= budget
    if spent and rule and rule.patience is None:  # the schedule has ended: nothing improves any more
        rule = None
    confirmations = rule.confirmations if rule and not spent else 1
    ends = range(len(points), len(points) - confirmations, -1)
    if len(points) >= confirmations and all(is_good_enough(points[:end], target, rule) for end in ends):
        return "reached"
    if spent:
        return "missed"
    if rule is None or rule.patience is None:
        return None
    last = points[-1]
    wanted = rule.patience * noise_factor(last)
    patience = min(wanted, PATIENCE_SHARE * last.iteration)
    is_stalled = last.iteration >= wanted and _has_stopped_improving(points, patience, needed_gain(last, rule))
    return "plateau" if is_stalled else None


def is_good_enough(points: Sequence[Point], target: Target, rule: StopRule | None) -> bool:
    """Say whether the newest point is at its target.

    A target that is carried over from earlier drops says nothing of what is new. So the score on all of val must be
    above what is expected of scratch, or all that is learnt must have stopped improving. The further a run is above a
    carried target, on what is old and on what is new, the more it must gain to go on. A run that has lost as much since
    its best evaluation is not at its target: it is in the dip that follows a start with a large step.
    """
    last = points[-1]
    if target.scope is None:
        return last.score >= target.accuracy
    if last.in_scope is None or last.in_scope < target.accuracy:
        return False
    if rule is None or _is_above_expected(last.score, target.expected):
        return True
    learnt = last.in_scope if last.newest is None else min(last.in_scope, last.newest)
    above = max(0.0, learnt - target.accuracy) / rule.excess if rule.excess else 0.0
    gain = needed_gain(last, rule) * (1 + above)
    has_dipped = last.score < max(point.score for point in points) - gain
    return not has_dipped and _has_stopped_improving(points, rule.window * noise_factor(last), gain)


def _is_above_expected(accuracy: float, expected: AccuracyEstimate | None) -> bool:
    return expected is not None and accuracy >= expected.accuracy + MARGIN_ERRORS * expected.standard_error


def needed_gain(last: Point, rule: StopRule) -> float:
    """Return the rise of the score that counts as a gain: the rule's least one, or its errors of the newest score."""
    return max(rule.gain, rule.errors * _standard_error(last))


def noise_factor(last: Point) -> float:
    """Return how many times longer than the rule says a run is watched: 1 up to an error of `SMALL_ERROR`, then more.

    The fewer the validation samples, the larger a gain has to be to be told from noise, and the longer a run takes to
    make it.
    """
    return max(1.0, _standard_error(last) / SMALL_ERROR)


def _standard_error(last: Point) -> float:
    if last.standard_error is not None:
        return last.standard_error
    return math.sqrt(last.accuracy * (1 - last.accuracy) / last.images)


def _has_stopped_improving(points: Sequence[Point], window: float, gain: float) -> bool:
    return all(has_plateau(points, curve, window, gain) for curve in IMPROVING)


def has_plateau(points: Sequence[Point], curve: Curve, window: float, gain: float) -> bool:
    """Say whether a curve's best score has risen by less than `gain` over the last `window` iterations.

    A curve that is younger than the window has no plateau. One without figures, since no drop is new, has always.
    """
    values = [(point.iteration, value) for point in points if (value := getattr(point, curve)) is not None]
    if not values:
        return True
    before = [value for iteration, value in values if iteration <= points[-1].iteration - window]
    return bool(before) and max(value for _, value in values) - max(before) < gain
