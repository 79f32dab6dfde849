"""The promotion gate: compare a candidate with the champion, and decide."""

from collections.abc import Iterator
from statistics import NormalDist

from torch import Tensor

from retrain.config.task import Gate
from retrain.records import Comparison, Decision, Evaluation, Interval


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


def compare(champion: str, theirs: Tensor, ours: Tensor, confidence: float) -> Comparison:
    """Compare a candidate with the champion; `theirs`, `ours`: bool [N], whether each had the sample right."""
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return Comparison(
        champion=champion,
        champion_accuracy=float(theirs.double().mean()),
        difference=paired_difference(better, worse, len(ours), confidence),
        negative_flips=worse / len(ours),
    )


def decide(gate: Gate, evaluation: Evaluation) -> Decision:
    """Return the decision, with a sentence for every condition that failed."""
    reasons = tuple(_failures(gate, evaluation))
    return Decision(promoted=not reasons, reasons=reasons)


def _failures(gate: Gate, evaluation: Evaluation) -> Iterator[str]:
    if evaluation.accuracy < gate.min_accuracy:
        yield f"accuracy {evaluation.accuracy:.4f} is below gate.min_accuracy {gate.min_accuracy}"
    if evaluation.old is not None and evaluation.old < gate.min_old_accuracy:
        yield f"accuracy on old drops {evaluation.old:.4f} is below gate.min_old_accuracy {gate.min_old_accuracy}"
    weak = [name for name, accuracy in evaluation.by_class.items() if accuracy < gate.min_class_accuracy]
    if weak:
        yield f"accuracy in {', '.join(weak[:5])} is below gate.min_class_accuracy {gate.min_class_accuracy}"
    if comparison := evaluation.comparison:
        low = comparison.difference.low
        if low < -gate.margin:
            yield (
                f"it may be worse than the champion {comparison.champion} by {-low:.4f} "
                f"({gate.confidence:.0%} interval), more than gate.margin {gate.margin}"
            )
        if comparison.negative_flips > gate.max_negative_flips:
            flips = comparison.negative_flips
            yield f"negative flips {flips:.4f} exceed gate.max_negative_flips {gate.max_negative_flips}"
