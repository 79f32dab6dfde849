"""Analyses of networks that the papers report: correlations, gradients of single samples, margins."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional


def margins(logits: Tensor) -> Tensor:
    """Return p₁ - p₂ for each sample, [N]: the probability of its most likely class minus the probability of the
    second.

    logits: [N, K], K > 1.
    """
    first, second = logits.softmax(1).topk(2).values.unbind(1)
    return first - second


def smallest_margins(logits: Tensor, count: int) -> Tensor:
    """Return the indices [count] of the samples with the smallest margins, smallest first.

    Equal margins are sorted by index.
    """
    return margins(logits).argsort(stable=True)[:count]


def weight_correlation(initial: Iterable[Tensor], final: Iterable[Tensor]) -> float:
    """Return Pearson's correlation over all weights of two networks of the same shape, in [-1, 1]."""
    pair = torch.stack([torch.cat([each.detach().flatten() for each in one]).double() for one in (initial, final)])
    return float(torch.corrcoef(pair)[0, 1])


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation of two tensors [N]. Equal values get their mean rank."""
    return float(torch.corrcoef(torch.stack([_ranks(one), _ranks(other)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    ordered = values.sort().values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)) / 2


GRADIENT_CHUNK = 64
"""Number of samples whose gradients are in memory at once."""

Gradients = dict[str, Tensor]


def fisher_diagonal(network: nn.Module, images: Tensor, labels: Tensor) -> Gradients:
    """Return E[(∂ log p(y|x) / ∂θ)²] by parameter name: the empirical Fisher information (Kirkpatrick et al., 2017).

    images: [N, C, H, W], labels: [N]. Uses the network in evaluation mode and restores its mode.
    """
    totals = {name: torch.zeros_like(parameter) for name, parameter in _trainable_parameters(network).items()}
    for gradients in _sample_gradients(network, images, labels):
        for name, gradient in gradients.items():
            totals[name] += gradient.square().sum(0)
    return {name: total / len(labels) for name, total in totals.items()}


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return ‖∂ loss / ∂θ‖ of each sample, [N] (Ash & Adams, figure 6). The arguments are as in `fisher_diagonal`."""
    norms = []
    for gradients in _sample_gradients(network, images, labels):
        squares = [gradient.square().flatten(1).sum(1) for gradient in gradients.values()]
        norms.append(torch.stack(squares).sum(0).sqrt())
    return torch.cat(norms)


def _trainable_parameters(network: nn.Module) -> Gradients:
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def _sample_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Gradients]:
    """Yield each chunk's gradients by parameter name, one row per sample."""
    parameters, buffers = _trainable_parameters(network), dict(network.named_buffers())

    def loss(parameters: Gradients, image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, (parameters, buffers), image[None])
        return functional.cross_entropy(logits, label[None])

    gradients: Callable[..., Gradients] = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    training = network.training
    network.eval()
    try:
        for some, their in zip(torch.split(images, GRADIENT_CHUNK), torch.split(labels, GRADIENT_CHUNK), strict=True):
            yield gradients(parameters, some, their)
    finally:
        network.train(training)
