"""Objective: the loss of an iteration (Verwimp et al., section 3.2; Kumar et al., 2023; Ash & Adams, Tables 2, 5).

Some penalties depend only on the weights. Their gradient is added to the gradient of the loss. The result is the same
as adding the penalty to the loss, at a fraction of the cost. Call the function that `gradient_term` returns once a
step, between `backward()` and `step()`. Adam's moments then contain the penalty's gradient. If the gradient of the loss
is unscaled or clipped, call the function afterwards. `parameters` are the trainable ones, and their gradients are
changed in place.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from retrain.config.recipe import L2, Adversarial, ConfidencePenalty, Ewc, L2Init, NoPenalty, Objective

Forward = Callable[[Tensor], Tensor]
"""Function from images [B, C, H, W] to logits [B, K]."""
BatchLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Function from (images, targets, logits [B, K], mean loss) to the scalar that is minimized.

Targets are labels [B], or shares of classes [B, K].
"""


def confidence_penalty(logits: Tensor, loss: Tensor, strength: float) -> Tensor:
    """Return loss - β·H(p). H is the mean entropy of the predicted distributions (Pereyra et al., 2017, eq. 2)."""
    log_p = functional.log_softmax(logits, 1)
    return loss + strength * (log_p.exp() * log_p).sum(1).mean()


def fgsm(forward: Forward, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return x + ε·sign(∇ₓ loss), the fast gradient sign method (Goodfellow et al., 2015, section 4)."""
    images = images.detach().requires_grad_()
    loss = functional.cross_entropy(forward(images).float(), labels)
    (gradient,) = torch.autograd.grad(loss, images)
    return (images + epsilon * gradient.sign()).detach()


def adversarial(forward: Forward, images: Tensor, labels: Tensor, loss: Tensor, epsilon: float) -> Tensor:
    """Return the mean of the losses on images and on adversarial images (Goodfellow et al., 2015, section 6)."""
    adversaries = fgsm(forward, images, labels, epsilon)
    return (loss + functional.cross_entropy(forward(adversaries).float(), labels)) / 2


def batch_loss(setting: Objective, forward: Forward) -> BatchLoss:
    """Return the function that computes the objective of a batch."""
    match setting:
        case ConfidencePenalty(strength=strength):
            return lambda images, labels, logits, loss: confidence_penalty(logits, loss, strength)
        case Adversarial(epsilon=epsilon):
            return lambda images, labels, logits, loss: adversarial(forward, images, labels, loss, epsilon)
        case _:
            return lambda images, labels, logits, loss: loss


@torch.no_grad()
def add_l2_gradient(parameters: Sequence[Tensor], strength: float) -> None:
    """Add 2λθ, the gradient of λ‖θ‖²."""
    torch._foreach_add_([_gradient(p) for p in parameters], list(parameters), alpha=2 * strength)


@torch.no_grad()
def add_l2_init_gradient(parameters: Sequence[Tensor], anchor: Sequence[Tensor], strength: float) -> None:
    """Add 2λ(θ - θ₀), the gradient of λ‖θ - θ₀‖² (Verwimp et al., eq. 5, without a factor 1/2).

    `anchor` is θ₀. It has a tensor for each parameter, with the same shape, type, device and memory format. This
    function needs as much temporary memory as the parameters have.
    """
    distance = torch._foreach_sub(list(parameters), list(anchor))
    torch._foreach_add_([_gradient(p) for p in parameters], list(distance), alpha=2 * strength)


@torch.no_grad()
def add_ewc_gradient(
    parameters: Sequence[Tensor], anchor: Sequence[Tensor], fisher: Sequence[Tensor], strength: float
) -> None:
    """Add λF(θ - θ*), the gradient of λ/2·ΣF(θ - θ*)² (Kirkpatrick et al., 2017, eq. 3; Ash & Adams, Table 5).

    `anchor` is θ*, and `fisher` is the diagonal of the Fisher information. Each has a tensor for every parameter, with
    the same shape.
    """
    distance = torch._foreach_sub(list(parameters), list(anchor))
    torch._foreach_addcmul_([_gradient(p) for p in parameters], list(distance), list(fisher), value=strength)


def gradient_term(
    setting: Objective,
    parameters: Sequence[Tensor],
    anchor: Sequence[Tensor] | None,
    fisher: Sequence[Tensor] | None = None,
) -> Callable[[], None]:
    """Return the function that adds the penalty's gradient. Call it between `backward()` and `step()`.

    Raises ValueError if L2-init is given no anchor, or if EWC (elastic weight consolidation) is given no anchor or no
    Fisher information.
    """
    match setting:
        case NoPenalty() | ConfidencePenalty() | Adversarial():
            return lambda: None
        case L2(strength=strength):
            return partial(add_l2_gradient, parameters, strength)
        case L2Init(strength=strength):
            if anchor is None:
                raise ValueError("the objective l2_init needs an anchor")
            return partial(add_l2_init_gradient, parameters, anchor, strength)
        case Ewc(strength=strength):
            if anchor is None or fisher is None:
                raise ValueError("the objective ewc needs an anchor and the Fisher information")
            return partial(add_ewc_gradient, parameters, anchor, fisher, strength)


def _gradient(parameter: Tensor) -> Tensor:
    """Return the parameter's gradient. If the loss did not depend on the parameter, return zeros.

    The penalty still depends on such a parameter.
    """
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
