"""What a candidate must show on the test split before it replaces the champion."""

from collections.abc import Iterator

from retrain.config import Gate
from retrain.records import Decision, Evaluation


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
