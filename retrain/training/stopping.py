"""Decide when an evaluation may stop early, and when a run ends.

A part of val can show that the target is not reached yet. Only all of val can show that it is reached. docs/concepts.md
explains the rules with an example.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, linear_regression
from typing import Literal

import torch

from retrain.records import AccuracyEstimate, Point, Target
from retrain.records.plan import StopRule

LOWEST_LEVEL = 99.0
"""Percentage of the baseline's accuracy above which evaluations use all of val. The speed-up L_99 needs the exact
iteration at which a run first reaches this percentage."""

RISK = 1e-3
"""Largest probability that an evaluation stops although all of val would reach the needed accuracy."""

EARLY_RISK = 0.5
"""The same probability, but for each check of an evaluation early in a run. With this value, an evaluation stops if
its accuracy so far is below the needed accuracy."""

FIRST, GROWTH = 128, 1.5
"""Number of samples before the first check, and the factor by which the samples grow from check to check."""


def subset_ends(total: int) -> Iterator[int]:
    """Yield the numbers of samples after which an evaluation is checked.

    A check decides whether the target can still be reached with the remaining samples. The last number is `total`.
    """
    size = FIRST
    while size < total:
        yield size
        size = math.ceil(size * GROWTH)
    yield total


def tail_probability(correct: int, seen: int, enough: int, total: int) -> float:
    """Return the probability that at most `correct` of `seen` samples are correct, if `enough` of all `total` are.

    Samples are drawn without replacement, so the distribution is hypergeometric. An evaluation that stops when this
    probability is at most `risk` is wrong with a probability of at most `risk`. This holds for any network, because a
    better network fails more rarely.
    """
    least, most = max(0, seen - (total - enough)), min(correct, enough)
    if most < least:
        return 0.0
    right = torch.arange(least, most + 1, dtype=torch.float64)
    logs = _log_binomial(enough, right) + _log_binomial(total - enough, seen - right)
    logs -= _log_binomial(total, torch.tensor(float(seen)))
    return float(logs.exp().sum())


def _log_binomial(total: int, chosen: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the binomial coefficient `total` over `chosen`."""
    return math.lgamma(total + 1) - torch.lgamma(chosen.double() + 1) - torch.lgamma(total - chosen.double() + 1)


def needed_accuracy(target: Target | None, rule: StopRule | None = None) -> float:
    """Return the lowest accuracy that must be measured exactly. A lower accuracy decides nothing.

    With a stop rule or a target's scope, the result is 0, because these need every accuracy to be exact.
    """
    if target is None or rule is not None or target.scope is not None:
        return 0.0
    return min(target.level, LOWEST_LEVEL) / 100 * target.baseline_accuracy


def is_early(target: Target | None, iteration: int) -> bool:
    """Return whether this iteration is too early for the target, judged by the task's earlier runs."""
    return target is not None and iteration < target.expected_from


def rejection_risk(early: bool, checks: int) -> float:
    """Return the probability with which each of `checks` checks may stop an evaluation wrongly."""
    return EARLY_RISK if early else RISK / checks


MARGIN_ERRORS = 1.0
"""Margin above the accuracy expected of scratch, in standard errors. A run that still improves fast needs this margin
to end at `improve_until`. The margin shrinks in proportion to the iterations, and is zero at twice `improve_until`. In
trials, some runs could end in this way even before `improve_until`. In the two trials in which scratch does not fit its
data (images of clothes, and CIFAR-100 with 450 images a class), such runs ended 2 to 5 points below scratch. If scratch
fits its data, runs that could not end before `improve_until` took twice as long and were 3 points above scratch."""

TARGET_ERRORS = 0.5
"""Distance below a carried target at which a run may end from `improve_until` on, in standard errors."""

SLOW_GAIN = 0.008
"""Rise of the score within a window below which a run improves slowly. From `improve_until` on, such a run may end even
if it is below the expected accuracy. The expected accuracy can be far too high, because it assumes that new classes are
as easy as the baseline's classes."""

LEAST_POINTS = 4
"""Smallest number of evaluations for an estimate of the slope of the score over the loss."""

CurveName = Literal["score", "newest"]

IMPROVING: tuple[CurveName, ...] = ("score", "newest")
"""The curves that must stop improving: the score on all of val, and on the drops that the parent was not trained on."""

SMALL_ERROR = 0.01
"""Largest standard error of an accuracy that does not lengthen the windows. 80% on 1,600 images has this error."""

LARGE_ERROR = 0.02
"""Standard error of an accuracy above which the loss decides whether a run still improves. 80% on 400 images has this
error. With a limit of 0.01, runs that were already 2 points above scratch took up to 1.7 times as long as with 0.02."""

PATIENCE_SHARE = 0.7
"""Largest patience, as a share of a run's iterations so far. The first 30% of a run are never part of a plateau."""


def judge(
    points: Sequence[Point], target: Target | None, rule: StopRule | None, budget: int
) -> Literal["reached", "plateau", "missed"] | None:
    """Return the outcome if a run ends with its newest point, else None. All `points` must be measured on all of val.

    - `reached`: the mean of its last evaluations is good enough. The rule states their number (`confirmations`). At the
      end of the budget, one evaluation is enough. Without a rule, a run ends when it first reaches its target.
    - `missed`: the budget is spent.
    - `plateau`: nothing has improved for the rule's patience, and the run is further below its target than the rule's
      tolerance. If it is not further below, the run has `reached` its target.
    """
    if target is None:
        return None
    spent = points[-1].iteration >= budget
    confirmations = rule.confirmations if rule and not spent else 1
    if len(points) >= confirmations and is_good_enough(points, target, rule, confirmations, spent):
        return "reached"
    if spent:
        return "missed"
    if rule is None or rule.patience is None:
        return None
    last = points[-1]
    wanted = rule.patience * noise_factor(last)
    patience = min(wanted, PATIENCE_SHARE * last.iteration)
    if last.iteration < wanted or not _has_stopped_improving(points, patience, needed_gain(last, rule)):
        return None
    shortfall = target.accuracy - _mean(points, "in_scope" if target.scope else "score", confirmations)
    return "reached" if shortfall <= rule.tolerance else "plateau"


def is_good_enough(
    points: Sequence[Point], target: Target, rule: StopRule | None, confirmations: int, spent: bool
) -> bool:
    """Return whether a run has reached its target, in the mean of its last `confirmations` evaluations.

    A carried target says nothing about new samples. A run at such a target continues until one of these is true:

    - The budget is spent.
    - All curves have stopped improving. The further the run is above the target, on old and on new drops, the larger a
      rise must be to count. If the score is lower than at the best evaluation by this much, the run does not count as
      having stopped: it may be in the dip after a start with large steps.
    - It has reached `improve_until`, and it either improves slowly or is above the score expected of scratch.
    - It has reached twice `improve_until`.

    In the second and third case, the run still continues if its score is noisy and its loss shows that the score rises.
    """
    score, last = _mean(points, "score", confirmations), points[-1]
    if target.scope is None:
        return score >= target.accuracy
    is_late = rule is not None and rule.improve_until is not None and last.iteration >= rule.improve_until
    tolerance = TARGET_ERRORS * target.standard_error if is_late else 0.0
    if last.in_scope is None or _mean(points, "in_scope", confirmations) < target.accuracy - tolerance:
        return False
    expected = expect_scratch(points, target)
    if rule is None or spent or _is_at_its_end(last, rule):
        return True
    if _standard_error(last) > LARGE_ERROR and still_learns(points, rule):
        return False
    if _may_end_while_improving(points, expected, rule, score):
        return True
    excess = _excess(last, target.accuracy, expected, score)
    gain = needed_gain(last, rule) * (1 + (excess / rule.excess if rule.excess else 0.0))
    has_dipped = last.score < max(point.score for point in points) - gain
    return not has_dipped and _has_stopped_improving(points, rule.window * noise_factor(last), gain)


def expect_scratch(points: Sequence[Point], target: Target) -> AccuracyEstimate | None:
    """Return the accuracy that scratch would end with on all of val, from the plan's estimate and the run itself.

    The plan's estimate is for the baseline's samples and classes. Images of new classes may improve scratch on these
    samples, too. Therefore, if the run is more accurate there than the estimate, scratch is assumed to be as accurate
    as the run.

    The run also shows how much accuracy new classes cost. If it chooses only among the baseline's classes, it
    classifies some samples correctly. If it chooses among all classes, it still classifies a share of these correctly.
    Scratch is assumed to keep the same share, and to be as accurate on later classes as on the baseline's classes. Both
    accuracies of the run are means over the later half of its evaluations.
    """
    planned = target.expected
    recent = [point for point in points[len(points) // 2 :] if point.in_scope and point.scope_among_all is not None]
    if planned is None or not recent:
        return planned
    scoped, kept = (fmean(getattr(point, name) for point in recent) for name in ("in_scope", "scope_among_all"))
    share = min(1.0, kept / scoped)
    spread = target.baseline_accuracy * (1 - target.baseline_accuracy)
    samples = spread / target.standard_error**2 if target.standard_error else math.inf
    share_error = math.sqrt(share * (1 - share) / (scoped * samples))
    accuracy = planned.accuracy if planned.is_rough else max(planned.accuracy, scoped)
    error = math.hypot(planned.standard_error * share, accuracy * share_error)
    return planned.model_copy(update={"accuracy": accuracy * share, "standard_error": error})


def _excess(last: Point, target: float, expected: AccuracyEstimate | None, score: float) -> float:
    """Return the smallest of three distances, or 0 if one of them is negative.

    They are the run's accuracy on old drops and on new drops, minus the carried target, and `score` minus the expected
    accuracy.
    """
    excess = min(value for value in (last.in_scope, last.newest) if value is not None) - target
    if expected is not None:
        excess = min(excess, score - expected.accuracy)
    return max(0.0, excess)


def _may_end_while_improving(
    points: Sequence[Point], expected: AccuracyEstimate | None, rule: StopRule, score: float
) -> bool:
    """Return whether a run at its carried target may end although it improves, because it is about as good as scratch.

    It may end from the rule's `expect_from` on if it is above the expected accuracy, and from `improve_until` on if its
    score rises slowly. A rough estimate of the expected accuracy is used only from `improve_until` on.
    """
    last = points[-1]
    if rule.improve_until is None:
        return False
    if last.iteration >= rule.improve_until and _rises_slowly(points, rule, score):
        return True
    if expected is None:
        return False
    start = rule.improve_until if expected.is_rough or rule.expect_from is None else rule.expect_from
    margin = MARGIN_ERRORS * (2 - last.iteration / rule.improve_until)
    return last.iteration >= start and score >= expected.accuracy + margin * expected.standard_error


def _is_at_its_end(last: Point, rule: StopRule) -> bool:
    """Return whether a run at its carried target must end now to take fewer iterations than scratch."""
    return rule.improve_until is not None and last.iteration >= 2 * rule.improve_until


def still_learns(points: Sequence[Point], rule: StopRule) -> bool:
    """Return whether the loss on val falls so fast that the score should rise by the rule's least gain in a window.

    With few validation samples, the score is too noisy to show such a rise. The loss shows it, because every sample
    changes the loss. The slope of the score over the loss converts a change of the loss into a change of the score. It
    is fitted by least squares over the evaluations without the first quarter. Returns False without losses, or if the
    slope is not negative.
    """
    last = points[-1]
    before = [point for point in points if point.iteration <= last.iteration - rule.window]
    used = [(point.loss, point.score) for point in points[len(points) // 4 :] if point.loss is not None]
    if not before or before[-1].loss is None or last.loss is None or len({loss for loss, _ in used}) < LEAST_POINTS:
        return False
    slope = linear_regression(*zip(*used, strict=True)).slope
    rise = slope * (last.loss - before[-1].loss) * rule.window / (last.iteration - before[-1].iteration)
    return slope < 0 and rise >= rule.gain


def _rises_slowly(points: Sequence[Point], rule: StopRule, score: float) -> bool:
    """Return whether the score rises by less than `SLOW_GAIN` per window. If it is noisy, use several windows."""
    windows = noise_factor(points[-1])
    before = [point for point in points if point.iteration <= points[-1].iteration - windows * rule.window]
    return bool(before) and score - _mean(before, "score", rule.confirmations) < windows * SLOW_GAIN


def _mean(points: Sequence[Point], curve: Literal["score", "in_scope"], count: int) -> float:
    """Return the mean of the last `count` values of a curve. If there are fewer values, use all of them."""
    return fmean(value for point in points[-count:] if (value := getattr(point, curve)) is not None)


def needed_gain(last: Point, rule: StopRule) -> float:
    """Return the rise of the score that counts as a gain: `rule.gain`, or `rule.errors` standard errors if larger."""
    return max(rule.gain, rule.errors * _standard_error(last))


def noise_factor(last: Point) -> float:
    """Return the factor on the rule's windows. It is 1 up to a standard error of `SMALL_ERROR`, and larger above it.

    With few validation samples, only a large gain differs from noise, and a run takes longer to make it.
    """
    return max(1.0, _standard_error(last) / SMALL_ERROR)


def _standard_error(last: Point) -> float:
    if last.standard_error is not None:
        return last.standard_error
    return math.sqrt(last.accuracy * (1 - last.accuracy) / last.images)


def _has_stopped_improving(points: Sequence[Point], window: float, gain: float) -> bool:
    return all(has_plateau(points, curve, window, gain) for curve in IMPROVING)


def has_plateau(points: Sequence[Point], curve: CurveName, window: float, gain: float) -> bool:
    """Return whether a curve's best score has risen by less than `gain` over the last `window` iterations.

    A curve that is shorter than the window has no plateau. A curve without values always has one. This is the case if
    no drop is new.
    """
    values = [(point.iteration, value) for point in points if (value := getattr(point, curve)) is not None]
    if not values:
        return True
    before = [value for iteration, value in values if iteration <= points[-1].iteration - window]
    return bool(before) and max(value for _, value in values) - max(before) < gain
