"""Score a model's predictions by a metric, with the standard error due to the choice of the samples.

The standard error comes from the infinitesimal jackknife (Efron, 1982). `influence` is the derivative of the score with
respect to a sample's weight. The sum of the squared influences is the score's variance. If the score is a share of the
samples, this is the binomial variance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from retrain.config import Metric

TOP = 5
"""Number of most likely classes among which top5_accuracy looks for the label."""


class Predictions(NamedTuple):
    """A model's predictions for N samples."""

    likeliest: Tensor
    """The most likely class, int64 [N]. It is -1 if the labels' dataset does not have this class."""
    in_top: Tensor
    """Whether the label is among the `TOP` most likely classes, bool [N]."""

    def select(self, mask: Tensor) -> "Predictions":
        """Return the predictions for the samples that a mask, bool [N], selects."""
        return Predictions(self.likeliest[mask], self.in_top[mask])


class Score(NamedTuple):
    """A score over N samples."""

    value: float
    hits: Tensor
    """True for each sample that counts as correct, bool [N]."""
    influence: Tensor
    """Derivative of the value with respect to each sample's weight, float64 [N]."""
    prior: float
    """Variance that one more disagreement in each class would add to the difference of two such scores."""

    @property
    def standard_error(self) -> float:
        """Return the standard error of the value."""
        return float(self.influence.square().sum().sqrt())


def compute_score(metric: Metric, labels: Tensor, predictions: Predictions) -> Score:
    """Return a score over N samples. N must be at least 1. labels: int64 [N].

    Averages over classes include only classes that have samples.
    """
    hits = predictions.in_top if metric == "top5_accuracy" else predictions.likeliest == labels
    classes, own = torch.unique(labels, return_inverse=True)
    samples = own.bincount(minlength=len(classes)).double()
    if metric == "macro_f1":
        value, influence = _macro_f1(classes, own, samples, predictions.likeliest, hits)
    elif metric == "balanced_accuracy":
        recall = own[hits].bincount(minlength=len(classes)) / samples
        value, influence = recall.mean(), (hits.double() - recall[own]) / samples[own] / len(classes)
    else:
        value = hits.double().mean()
        influence = (hits.double() - value) / len(labels)
    prior = (samples + 2).pow(-2).sum() / len(classes) ** 2
    return Score(float(value), hits, influence, float(prior))


def _macro_f1(classes: Tensor, own: Tensor, samples: Tensor, likeliest: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over K classes of F1 = 2 correct / (samples + predictions), and each sample's influence.

    classes: [K], sorted. own: the position of each label among them, [N]. samples: float64 [K].
    """
    count = len(classes)
    guess = torch.searchsorted(classes, likeliest).clamp(max=count - 1)
    is_known = classes[guess] == likeliest
    sizes = samples + guess[is_known].bincount(minlength=count)
    f1 = 2 * own[hits].bincount(minlength=count) / sizes
    decrease = f1 / sizes  # of F1, if one more wrong sample has this class or is predicted as this class
    wrong = -decrease[own] - torch.where(is_known, decrease[guess], 0.0)
    influence = torch.where(hits, 2 / sizes[own] - 2 * decrease[own], wrong)
    return f1.mean(), influence / count
