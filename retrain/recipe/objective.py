"""Objective: what is minimised besides the loss (Verwimp et al., section 3.2; Kumar et al., 2023).

The penalty's gradient is added to the parameters' own, which is the same as adding the penalty to the loss and costs
a fraction of it. Call it once an optimiser step, between `backward()` and `step()`: coupled, so that it goes through
Adam's moments, and after any unscaling or clipping that is meant for the loss alone.

`parameters` are the trainable ones; gradients are changed in place.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from retrain.recipe.settings import L2, Adversarial, ConfidencePenalty, Ewc, L2Init, NoPenalty, Objective


@torch.no_grad()
def add_l2_gradient(parameters: Sequence[Tensor], strength: float) -> None:
    """Add 2λθ, the gradient of λ‖θ‖²."""
    torch._foreach_add_([_gradient(p) for p in parameters], list(parameters), alpha=2 * strength)


@torch.no_grad()
def add_l2_init_gradient(parameters: Sequence[Tensor], anchor: Sequence[Tensor], strength: float) -> None:
    """Add 2λ(θ - θ₀), the gradient of λ‖θ - θ₀‖² (Verwimp et al., eq. 5, which has no 1/2).

    `anchor` is θ₀: a tensor for each parameter, of its shape, type, device and memory format. It takes temporary
    memory of the parameters' size.
    """
    distance = torch._foreach_sub(list(parameters), list(anchor))
    torch._foreach_add_([_gradient(p) for p in parameters], list(distance), alpha=2 * strength)


@torch.no_grad()
def add_ewc_gradient(
    parameters: Sequence[Tensor], anchor: Sequence[Tensor], fisher: Sequence[Tensor], strength: float
) -> None:
    """Add λF(θ - θ*), the gradient of λ/2·ΣF(θ - θ*)² (Kirkpatrick et al., 2017, eq. 3; Ash & Adams, Table 5).

    `anchor` is θ*, `fisher` the diagonal of the Fisher information: each a tensor for every parameter, of its shape.
    """
    distance = torch._foreach_sub(list(parameters), list(anchor))
    torch._foreach_addcmul_([_gradient(p) for p in parameters], list(distance), list(fisher), value=strength)


def gradient_term(
    setting: Objective,
    parameters: Sequence[Tensor],
    anchor: Sequence[Tensor] | None,
    fisher: Sequence[Tensor] | None = None,
) -> Callable[[], None]:
    """Return what to call between `backward()` and `step()`.

    Raises ValueError if L2-init is given no anchor, or EWC no anchor or no Fisher information.
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
    """The parameter's gradient; zeros where the loss did not depend on it, since the penalty still does."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
