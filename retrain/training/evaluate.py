"""What a network predicts for resident samples, and how often it is right."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain.data.augment import Normalize
from retrain.data.resident import Samples
from retrain.training.stopping import upper_bound

CHUNK = 500
"""Images in a forward pass."""

ALPHA = 1e-3
"""Largest probability with which an evaluation gives up wrongly."""


class Measured(NamedTuple):
    """Accuracy and mean loss over the first `images` of the samples."""

    accuracy: float
    loss: float
    images: int


@torch.no_grad()
def _logits(
    network: nn.Module, samples: Samples, order: Tensor, normalize: Normalize
) -> Iterator[tuple[Tensor, Tensor]]:
    training = network.training
    network.eval()
    try:
        for indices in torch.split(order, CHUNK):
            images = normalize(samples.images[indices])
            with torch.autocast(images.device.type, torch.bfloat16, enabled=normalize.bf16):
                logits = network(images)
            yield logits, samples.labels[indices]
    finally:
        network.train(training)


def measure(network: nn.Module, samples: Samples, order: Tensor, normalize: Normalize, needed: float) -> Measured:
    """Measure accuracy and loss over samples[order], giving up once the accuracy cannot be `needed` any more.

    `order` [N] must be a random order, drawn before the network was known. Fewer than N images in the answer mean
    that accuracy over all N is below `needed`; that is wrong with probability `ALPHA` at most.
    """
    alpha = ALPHA / math.ceil(len(order) / CHUNK)  # it may give up wrongly after any of the chunks
    correct, loss, seen = 0, 0.0, 0
    for logits, labels in _logits(network, samples, order, normalize):
        logits = logits.float()
        counts = torch.stack(
            [
                (logits.argmax(1) == labels).sum().double(),
                functional.cross_entropy(logits, labels, reduction="sum").double(),
            ]
        ).tolist()
        correct, loss, seen = correct + int(counts[0]), loss + counts[1], seen + len(labels)
        if upper_bound(correct, seen, len(order), alpha) < needed:
            break
    return Measured(correct / seen, loss / seen, seen)


def predictions(network: nn.Module, samples: Samples, normalize: Normalize) -> Tensor:
    """Return the predicted class of every sample, int64 [N] on the samples' device."""
    order = torch.arange(len(samples.labels), device=samples.labels.device)
    return torch.cat([logits.argmax(1) for logits, _ in _logits(network, samples, order, normalize)])
