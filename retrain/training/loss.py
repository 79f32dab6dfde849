"""The loss of a batch: cross-entropy, with smoothed labels and weighted classes if the task sets them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from retrain.config.task import Training


class Losses(NamedTuple):
    """The losses of a batch: the mean loss, and the loss of each image."""

    mean: Tensor
    """The scalar to minimize, with its autograd graph. The recipe's objective is added to it."""
    each: Tensor
    """Cross-entropy of every image with its own label [B], for the learning-speed index."""


Criterion = Callable[[Tensor, Tensor, Tensor], Losses]
"""Function of logits [B, K], labels int64 [B] and targets. The targets are labels, or shares of classes [B, K]."""


def make_criterion(setting: Training, classes: Sequence[str], labels: Tensor, mixed: bool = False) -> Criterion:
    """Return the loss function for training on samples with these labels: int64 [N], positions in `classes`.

    `mixed` states whether targets may differ from the labels.
    """
    weights = class_weights(setting.class_weights, classes, labels)
    if weights is None and not setting.label_smoothing and not mixed:
        return plain_loss
    return partial(weighted_loss, weights=weights, smoothing=setting.label_smoothing)


def plain_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Losses:
    """Return the cross-entropy with the labels. The targets must equal the labels."""
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return Losses(losses.mean(), losses)


def weighted_loss(logits: Tensor, labels: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Losses:
    """Return the mean over images of sum_k -w_k q_k log p_k, with q = (1 - smoothing) · target + smoothing / K.

    The mean divides by the number of images, not by the sum of their weights. The parts of a batch in several processes
    then add up to the loss of the whole batch. `weights` [K] have mean 1 over the training samples.
    """
    losses = functional.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=smoothing)
    return Losses(losses.mean(), functional.cross_entropy(logits.detach(), labels, reduction="none"))


def class_weights(setting: str | Mapping[str, float], classes: Sequence[str], labels: Tensor) -> Tensor | None:
    """Return the weight of each class, float32 [K] on the labels' device. None if all weights are equal.

    `inverse`: N / (K n_k) for a class with n_k of the N samples. Weights are scaled to a mean of 1 over the samples, so
    that they do not change the mean size of a step. A class without samples gets a weight of 1. It matters because
    smoothed labels have a share of every class.
    """
    if setting == "none":
        return None
    counts = torch.bincount(labels, minlength=len(classes)).double()
    if isinstance(setting, str):
        weights = torch.where(counts > 0, 1 / counts, (counts > 0).sum() / counts.sum())
    else:
        weights = torch.tensor([setting.get(name, 1.0) for name in classes], device=labels.device).double()
    return (weights * counts.sum() / (weights * counts).sum()).float()
