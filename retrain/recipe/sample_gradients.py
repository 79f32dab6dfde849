"""Gradients of single samples: the Fisher information of EWC, and the gradient norms of old and new data."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 64
"""Samples whose gradients are held at once."""

Gradients = dict[str, Tensor]


def fisher_diagonal(network: nn.Module, images: Tensor, labels: Tensor) -> Gradients:
    """Return E[(∂ log p(y|x) / ∂θ)²] by parameter name: the empirical Fisher information (Kirkpatrick et al., 2017).

    images: [N, C, H, W], labels: [N]. The network is taken in evaluation mode, and left as it was.
    """
    totals = {name: torch.zeros_like(parameter) for name, parameter in _trainable(network).items()}
    for gradients in _each(network, images, labels):
        for name, gradient in gradients.items():
            totals[name] += gradient.square().sum(0)
    return {name: total / len(labels) for name, total in totals.items()}


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return ‖∂ loss / ∂θ‖ of each sample, [N] (Ash & Adams, figure 6); arguments as in `fisher_diagonal`."""
    norms = []
    for gradients in _each(network, images, labels):
        squares = [gradient.square().flatten(1).sum(1) for gradient in gradients.values()]
        norms.append(torch.stack(squares).sum(0).sqrt())
    return torch.cat(norms)


def _trainable(network: nn.Module) -> Gradients:
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def _each(network: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Gradients]:
    """Each chunk's gradients by parameter name, a row a sample."""
    parameters, buffers = _trainable(network), dict(network.named_buffers())

    def loss(parameters: Gradients, image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, (parameters, buffers), image[None])
        return functional.cross_entropy(logits, label[None])

    gradients: Callable[..., Gradients] = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    training = network.training
    network.eval()
    try:
        for some, their in zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True):
            yield gradients(parameters, some, their)
    finally:
        network.train(training)
