"""The promotion gate: compare a candidate with the champion, and decide."""

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

if TYPE_CHECKING:
    from torch import Tensor

    from retrain.training.scores import Score

TYPICAL_DISAGREEMENT = 0.15
"""Share of test images on which two networks of one task disagree as to which is right, before any were compared:
networks of 80 to 90% accuracy that were trained on much the same data."""


LEAST_GAP = 1e-4
"""Distance between a measured loss and the margin below which no realistic number of images tells them apart."""


def paired_difference(better: int, worse: int, samples: int, confidence: float) -> Interval:
    """Return the difference of two accuracies measured on the same samples, with its confidence interval.

    `better` samples only the first network had right, `worse` only the second. Wald's interval with Agresti & Min's
    (2005) adjustment: half a sample is added to each of the four cells, so it never has zero width.
    """
    b, c, n = better + 0.5, worse + 0.5, samples + 2
    centre = (b - c) / n
    error = ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Interval(value=(better - worse) / samples, low=max(-1.0, centre - reach), high=min(1.0, centre + reach))


def compare(champion: str, theirs: "Tensor", ours: "Tensor", confidence: float) -> Comparison:
    """Compare a candidate with the champion; `theirs`, `ours`: bool [N], whether each had the sample right."""
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return Comparison(
        champion=champion,
        champion_accuracy=float(theirs.double().mean()),
        difference=paired_difference(better, worse, len(ours), confidence),
        negative_flips=worse / len(ours),
    )


def score_difference(theirs: "Score", ours: "Score", confidence: float) -> Interval:
    """Return the difference of two scores on the same samples, `ours` - `theirs`, with its confidence interval.

    Wald's interval, from the paired influences of each sample. As if one more sample of each class were told apart, in
    the manner of `paired_difference`: so it never has zero width.
    """
    error = math.sqrt(float((ours.influence - theirs.influence).square().sum()) + ours.prior)
    reach, value = NormalDist().inv_cdf((1 + confidence) / 2) * error, ours.value - theirs.value
    return Interval(value=value, low=max(-1.0, value - reach), high=min(1.0, value + reach))


def decide(gate: Gate, evaluation: Evaluation) -> Decision:
    """Return the decision, with a sentence for every condition that failed, and for what could not be told."""
    reasons = tuple(_failures(gate, evaluation))
    return Decision(promoted=not reasons, reasons=reasons, notes=tuple(_doubts(gate, evaluation)))


def is_worse(gate: Gate, difference: Interval) -> bool:
    """Return whether a candidate is shown to be worse than the champion, and by more than the margin.

    Two conditions: the loss that was measured is above the margin, and the interval shows that there is a loss (the
    paired test of McNemar, 1947, at the gate's confidence). So a candidate that is not worse is not refused because
    the test split is small, and a loss within the margin is never refused.
    """
    return difference.value < -gate.margin and difference.high < 0


def images_to_settle(gate: Gate, difference: Interval, samples: int) -> int | None:
    """Return how many test images would tell whether a candidate is worse by more than the margin.

    As many as bring the interval's half width to the distance that decides, if the difference and the share of
    disagreements stay as they are. None where the measured difference is the margin itself: no number tells them apart.
    """
    half = (difference.high - difference.low) / 2
    loss = -difference.value
    gap = loss if loss > gate.margin else gate.margin - loss
    return max(samples + 1, math.ceil(samples * (half / gap) ** 2)) if gap > LEAST_GAP else None


def _failures(gate: Gate, evaluation: Evaluation) -> Iterator[str]:
    score = METRIC_NAMES[evaluation.metric]
    if evaluation.score < gate.min_accuracy:
        yield f"{score} {evaluation.score:.4f} is below gate.min_accuracy {gate.min_accuracy}"
    if evaluation.old is not None and evaluation.old < gate.min_old_accuracy:
        yield f"{score} on old drops {evaluation.old:.4f} is below gate.min_old_accuracy {gate.min_old_accuracy}"
    weak = [name for name, accuracy in evaluation.by_class.items() if accuracy < gate.min_class_accuracy]
    if weak:
        yield f"accuracy in {', '.join(weak[:5])} is below gate.min_class_accuracy {gate.min_class_accuracy}"
    if comparison := evaluation.comparison:
        difference = comparison.difference
        if is_worse(gate, difference):
            yield (
                f"it is worse than the champion {comparison.champion} by {-difference.value:.4f} "
                f"({gate.confidence:.0%} interval {-difference.high:.4f} to {-difference.low:.4f}), "
                f"more than gate.margin {gate.margin}"
            )
        if comparison.negative_flips > gate.max_negative_flips:
            flips = comparison.negative_flips
            yield f"negative flips {flips:.4f} exceed gate.max_negative_flips {gate.max_negative_flips}"


def _doubts(gate: Gate, evaluation: Evaluation) -> Iterator[str]:
    """Yield what the test split was too small to tell."""
    if evaluation.comparison is None:
        return
    difference = evaluation.comparison.difference
    if difference.low >= -gate.margin or is_worse(gate, difference):
        return
    needed = images_to_settle(gate, difference, evaluation.samples)
    settled = f"about {needed:,} would settle it" if needed else "no number of images settles so close a case"
    yield (
        f"{evaluation.samples:,} test images cannot tell whether it is worse than the champion "
        f"{evaluation.comparison.champion} by more than gate.margin {gate.margin}: the {gate.confidence:.0%} interval "
        f"is {difference.low:+.4f} to {difference.high:+.4f}; {settled}"
    )


def images_to_show(gate: Gate, disagreement: float = TYPICAL_DISAGREEMENT) -> int:
    """Return how many test images show that an equally good candidate is within the margin.

    The half width of Wald's interval for two equal accuracies, z * sqrt(disagreement / n), is then the margin.
    """
    z = NormalDist().inv_cdf((1 + gate.confidence) / 2)
    return math.ceil(disagreement * (z / gate.margin) ** 2)


def effective_samples(metric: Metric, counts: Mapping[str, int]) -> int:
    """Return how many samples of equally many a class tell as much as these samples by class.

    The variance of a mean over K classes is that of sum(1 / samples of the class) / K^2.
    """
    present = [count for count in counts.values() if count]
    if metric in TOP_CLASSES or not present:
        return sum(present)
    return round(len(present) ** 2 / sum(1 / count for count in present))


def gate_warnings(gate: Gate, drops: Sequence[Drop], has_champion: bool, metric: Metric = "accuracy") -> Iterator[str]:
    """Yield the gate's conditions that these drops have too few test samples for, and how many each needs."""
    if untrained := untrained_classes(drops):
        named = ", ".join(untrained[:10])
        yield f"no training image of {named}: left out of evaluation on the test split, and so of the gate"
    counts: Counter[str] = Counter()
    for drop in drops:
        counts.update(drop.counts.get("test", {}))
    samples, told = counts.total(), effective_samples(metric, counts)
    if not samples:
        yield "there is no test image: the gate cannot judge a model; hold some out with data.test_share"
        return
    if has_champion and gate.margin and told < (needed := images_to_show(gate)):
        worth = f", which count as {told:,} for {METRIC_NAMES[metric]}," if told < samples else ""
        yield (
            f"{samples:,} test images{worth} are too few to show that a model is within gate.margin {gate.margin} of "
            f"the champion: it takes about {needed:,}; with fewer, only a clear loss is refused"
        )
    if has_champion and 0 < gate.max_negative_flips < 1 / samples:
        yield (
            f"gate.max_negative_flips {gate.max_negative_flips} lets no single image of {samples:,} turn wrong: "
            f"it takes {math.ceil(1 / gate.max_negative_flips):,} test images"
        )
    few = [name for name, count in counts.items() if 0 < count < _images_to_miss_one(gate.min_class_accuracy)]
    if few:
        yield (
            f"gate.min_class_accuracy {gate.min_class_accuracy} lets no single test image of {', '.join(few[:5])} be "
            f"wrong: it takes {_images_to_miss_one(gate.min_class_accuracy):,} of each class"
        )


def _images_to_miss_one(floor: float) -> int:
    """Return how many images it takes that one of them may be wrong at this lowest accuracy."""
    return math.ceil(1 / (1 - floor)) if 0 < floor < 1 else 0
