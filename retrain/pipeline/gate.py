"""The promotion gate: compare a candidate with the champion, and decide whether to promote it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from retrain.config import METRIC_NAMES, Metric
from retrain.config.task import Gate
from retrain.data.dataset import untrained_classes
from retrain.pipeline.targets import TOP_CLASSES
from retrain.records import Comparison, Decision, Drop, Evaluation, Interval
from retrain.utils.text import join_names

if TYPE_CHECKING:
    from torch import Tensor

    from retrain.training.scores import Score

TYPICAL_DISAGREEMENT = 0.15
"""Assumed share of test images that only one of two networks classifies correctly. Plans use it, because the networks
are compared only after the training. The value is typical of networks with 80 to 90% accuracy that were trained on
similar data."""


LEAST_GAP = 1e-4
"""Smallest distance between a candidate's deficit and the margin that a realistic number of images can resolve.

The deficit is the champion's score minus the candidate's score.
"""


def paired_difference(better: int, worse: int, samples: int, confidence: float) -> Interval:
    """Return the difference of two accuracies on the same samples, with its confidence interval.

    Only the first network classifies the `better` samples correctly. Only the second network classifies the `worse`
    samples correctly. The interval is Wald's with the adjustment of Agresti & Min (2005): half a sample is added to
    each of the four counts (both correct, only the first, only the second, neither). Therefore the interval never has
    zero width.
    """
    b, c, n = better + 0.5, worse + 0.5, samples + 2
    centre = (b - c) / n
    error = ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Interval(value=(better - worse) / samples, low=max(-1.0, centre - reach), high=min(1.0, centre + reach))


def compare(champion: str, before: "Tensor", now: "Tensor", confidence: float) -> Comparison:
    """Compare a candidate with the champion.

    `before` and `now`, bool [N], mark the correct predictions of the champion and of the candidate.
    """
    better, worse = int((now & ~before).sum()), int((before & ~now).sum())
    return Comparison(
        champion=champion,
        champion_accuracy=float(before.double().mean()),
        difference=paired_difference(better, worse, len(now), confidence),
        negative_flips=worse / len(now),
    )


def score_difference(before: "Score", now: "Score", confidence: float) -> Interval:
    """Return the difference of two scores on the same samples, `now` - `before`, with its confidence interval.

    It is Wald's interval, computed from each sample's influence on the two scores. As in `paired_difference`, a prior
    is added: for each class, one more sample on which the two models disagree. Therefore the interval never has zero
    width.
    """
    error = math.sqrt(float((now.influence - before.influence).square().sum()) + now.prior)
    reach, value = NormalDist().inv_cdf((1 + confidence) / 2) * error, now.value - before.value
    return Interval(value=value, low=max(-1.0, value - reach), high=min(1.0, value + reach))


def decide(gate: Gate, evaluation: Evaluation) -> Decision:
    """Return the decision, with a sentence for each condition that failed or that the test split cannot decide."""
    reasons = tuple(_failures(gate, evaluation))
    return Decision(promoted=not reasons, reasons=reasons, notes=tuple(_undecided(gate, evaluation)))


def is_worse(gate: Gate, difference: Interval) -> bool:
    """Return whether a candidate is shown to be worse than the champion, and by more than the margin.

    Both conditions must hold: the candidate's score is lower by more than the margin, and the interval is below zero
    (the paired test of McNemar, 1947, at the gate's confidence). A small test split alone is therefore never a reason
    for a refusal. A score that is lower by at most the margin always passes.
    """
    return difference.value < -gate.margin and difference.high < 0


def images_to_decide(gate: Gate, difference: Interval, samples: int) -> int | None:
    """Return the number of test images that would show whether a candidate is worse by more than the margin.

    With this number of images, half the width of the interval equals the distance between the candidate's deficit
    and the margin. This assumes that the difference and the share of disagreements stay the same. Returns None if the
    deficit equals the margin, because no number is enough.
    """
    half = (difference.high - difference.low) / 2
    deficit = -difference.value
    gap = deficit if deficit > gate.margin else gate.margin - deficit
    return max(samples + 1, math.ceil(samples * (half / gap) ** 2)) if gap > LEAST_GAP else None


def _failures(gate: Gate, evaluation: Evaluation) -> Iterator[str]:
    score = METRIC_NAMES[evaluation.metric]
    if evaluation.score < gate.min_accuracy:
        yield f"{score} {evaluation.score:.4f} is below gate.min_accuracy {gate.min_accuracy}"
    if evaluation.old is not None and evaluation.old < gate.min_old_accuracy:
        yield f"{score} on old drops {evaluation.old:.4f} is below gate.min_old_accuracy {gate.min_old_accuracy}"
    classes = evaluation.by_class.items()
    weak = [f"{name} ({accuracy:.4f})" for name, accuracy in classes if accuracy < gate.min_class_accuracy]
    if weak:
        yield f"accuracy in class {', '.join(weak[:5])} is below gate.min_class_accuracy {gate.min_class_accuracy}"
    if comparison := evaluation.comparison:
        difference = comparison.difference
        if is_worse(gate, difference):
            yield (
                f"the candidate is worse than the champion {comparison.champion} by {-difference.value:.2%} "
                f"({gate.confidence:.0%} interval {-difference.high:.2%} to {-difference.low:.2%}), "
                f"more than gate.margin {gate.margin}"
            )
        if comparison.negative_flips > gate.max_negative_flips:
            flips = comparison.negative_flips
            yield f"negative flips {flips:.4f} exceed gate.max_negative_flips {gate.max_negative_flips}"


def _undecided(gate: Gate, evaluation: Evaluation) -> Iterator[str]:
    """Yield a sentence for each condition that the test split is too small to decide."""
    if evaluation.comparison is None:
        return
    difference = evaluation.comparison.difference
    if difference.low >= -gate.margin or is_worse(gate, difference):
        return
    needed = images_to_decide(gate, difference, evaluation.samples)
    advice = (
        f"about {needed:,} test images would be enough if the difference stays {difference.value:+.2%} (a warning in "
        "the plan assumes no difference, so it states another number)"
        if needed
        else f"the difference of {difference.value:+.2%} is so close to the margin that no number of images is enough"
    )
    yield (
        f"{evaluation.samples:,} test images do not show whether the candidate is worse than the champion "
        f"{evaluation.comparison.champion} by more than gate.margin {gate.margin}: the {gate.confidence:.0%} interval "
        f"is {difference.low:+.2%} to {difference.high:+.2%}; {advice}"
    )


def images_to_show(gate: Gate) -> int:
    """Return the number of test images needed to show that an equally good candidate is within the margin.

    The margin then equals half the width of Wald's interval for equal accuracies, z * sqrt(`TYPICAL_DISAGREEMENT` / n).
    """
    z = NormalDist().inv_cdf((1 + gate.confidence) / 2)
    return math.ceil(TYPICAL_DISAGREEMENT * (z / gate.margin) ** 2)


def effective_samples(metric: Metric, counts: Mapping[str, int]) -> int:
    """Return the number of class-balanced samples that give the same precision as samples with these `counts` by class.

    The variance of a mean over K classes is proportional to sum(1 / samples of the class) / K^2.
    """
    present = [count for count in counts.values() if count]
    if metric in TOP_CLASSES or not present:
        return sum(present)
    return round(len(present) ** 2 / sum(1 / count for count in present))


def gate_warnings(gate: Gate, drops: Sequence[Drop], has_champion: bool, metric: Metric = "accuracy") -> Iterator[str]:
    """Yield a warning for each gate condition that needs more test samples than these drops have.

    The drops must have at least one test sample.
    """
    if untrained := untrained_classes(drops):
        named = join_names(untrained[:10])
        yield (
            f"there is no training image of {named}: the evaluation on the test split and the gate ignore classes "
            "without training images"
        )
    counts: Counter[str] = Counter()
    for drop in drops:
        counts.update(drop.counts.get("test", {}))
    samples, effective = counts.total(), effective_samples(metric, counts)
    if has_champion and gate.margin and effective < (needed := images_to_show(gate)):
        worth = f" (for {METRIC_NAMES[metric]} they count as {effective:,})" if effective < samples else ""
        yield (
            f"{samples:,} test images{worth} are too few to show that a model is within gate.margin {gate.margin} of "
            f"the champion: about {needed:,} are needed if both are equally good and disagree on "
            f"{TYPICAL_DISAGREEMENT:.0%} of the images, as is assumed before a run; with fewer, only a clearly worse "
            "model is refused"
        )
    if has_champion and 0 < gate.max_negative_flips < 1 / samples:
        yield (
            f"gate.max_negative_flips {gate.max_negative_flips} allows no negative flip among {samples:,} test images: "
            f"{math.ceil(1 / gate.max_negative_flips):,} are needed to allow one"
        )
    few = [name for name, count in counts.items() if 0 < count < _images_to_miss_one(gate.min_class_accuracy)]
    if few:
        yield (
            f"gate.min_class_accuracy {gate.min_class_accuracy} allows no error in the few test images of "
            f"{', '.join(few[:5])}: {_images_to_miss_one(gate.min_class_accuracy):,} of each class are needed to allow "
            "one error"
        )


def _images_to_miss_one(floor: float) -> int:
    """Return the smallest number of images of a class with which its accuracy can reach `floor` despite one error."""
    return math.ceil(round(1 / (1 - floor), 6)) if 0 < floor < 1 else 0  # 1 / (1 - 0.9) is slightly above 10
