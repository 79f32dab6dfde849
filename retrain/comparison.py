"""Two networks on the same test samples: their difference, its interval, and what got worse."""

from statistics import NormalDist

from torch import Tensor

from retrain.records import Comparison, Interval


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
