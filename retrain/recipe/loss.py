"""What an iteration minimises on its batch: the loss alone, or with one of Ash & Adams' comparison terms (Table 2).

Terms that depend on the weights alone are in `objective`: their gradients are added directly.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from retrain.recipe.settings import Adversarial, ConfidencePenalty, Objective

Forward = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] to logits [B, K]."""
BatchLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(images, labels [B], logits [B, K], their mean cross-entropy) to the scalar that is minimised."""


def confidence_penalty(logits: Tensor, loss: Tensor, strength: float) -> Tensor:
    """Return loss - β·H(p), H being the mean entropy of the predicted distributions (Pereyra et al., 2017, eq. 2)."""
    log_p = functional.log_softmax(logits, 1)
    return loss + strength * (log_p.exp() * log_p).sum(1).mean()


def fgsm(forward: Forward, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return x + ε·sign(∇ₓ loss), the fast gradient sign method (Goodfellow et al., 2015, section 4)."""
    images = images.detach().requires_grad_()
    loss = functional.cross_entropy(forward(images).float(), labels)
    (gradient,) = torch.autograd.grad(loss, images)
    return (images + epsilon * gradient.sign()).detach()


def adversarial(forward: Forward, images: Tensor, labels: Tensor, loss: Tensor, epsilon: float) -> Tensor:
    """Return the mean of the loss on the images and on their adversaries (Goodfellow et al., 2015, section 6)."""
    adversaries = fgsm(forward, images, labels, epsilon)
    return (loss + functional.cross_entropy(forward(adversaries).float(), labels)) / 2


def batch_loss(setting: Objective, forward: Forward) -> BatchLoss:
    """Return what an iteration minimises."""
    match setting:
        case ConfidencePenalty(strength=strength):
            return lambda images, labels, logits, loss: confidence_penalty(logits, loss, strength)
        case Adversarial(epsilon=epsilon):
            return lambda images, labels, logits, loss: adversarial(forward, images, labels, loss, epsilon)
        case _:
            return lambda images, labels, logits, loss: loss
