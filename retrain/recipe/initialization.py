"""Initialization: the weights with which a run starts (Verwimp et al., section 3.1; Ash & Adams, 2020).

`old` is the parent's state dict. `fresh` is a newly initialized network, and it is changed in place. `pretrained` has
the pretrained weights of the network's body, if the task has them. Weights are then shrunk towards these weights
instead of zero. A tensor of `fresh` may have more rows (dimension 0) than the parent's tensor. This is the case for the
head when classes were added. New rows keep their full fresh initialization, or `class_mean_rows` computes them
beforehand from the parent's features.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain.config.recipe import Auto, Fresh, GaussianNoise, Initialization, ShrinkPerturb, Warm
from retrain.errors import ModelError


@torch.no_grad()
def warm_start(fresh: nn.Module, old: Mapping[str, Tensor]) -> None:
    """Set θ = old, for parameters and buffers. Raises `ModelError` and changes nothing if `old` does not fit."""
    _check_fit(fresh.state_dict(), old)
    for name, tensor in fresh.state_dict().items():
        _parent_rows(tensor, old[name]).copy_(old[name])


@torch.no_grad()
def shrink_perturb(
    fresh: nn.Module, old: Mapping[str, Tensor], setting: ShrinkPerturb, pretrained: Mapping[str, Tensor] | None = None
) -> None:
    """Set θ = α·old + β·fresh, for parameters (Verwimp et al., eq. 4).

    A pretrained body is shrunk towards its pretrained weights: θ = pretrained + α·(old - pretrained) + β·fresh. This
    applies eq. 4 to the changes that training has made to the pretrained weights.

    The perturbation is a newly initialized network rather than Gaussian noise. Buffers keep their fresh values, so
    BatchNorm's running statistics start fresh. Both choices follow the published code of Ash & Adams. The settings can
    take buffers from the parent, set new rows to β·fresh, and limit the shrinking (`least_norm`). Frozen parameters are
    taken from the parent unchanged, because training could not restore them. Raises `ModelError` and changes nothing if
    `old` does not fit.
    """
    _check_fit(fresh.state_dict(), old)
    centre = pretrained or {}
    alpha = setting.alpha if pretrained else shrink_factor(fresh, old, setting)
    for name, parameter in fresh.named_parameters():
        seen = _parent_rows(parameter, old[name])
        if not parameter.requires_grad:
            seen.copy_(old[name])
            continue
        (parameter if setting.new_rows == "perturbed" else seen).mul_(setting.beta)
        seen.add_(old[name].to(seen), alpha=alpha)
        if name in centre:
            parameter.add_(centre[name].to(parameter), alpha=1 - alpha)
    if setting.buffers == "old":
        for name, buffer in fresh.named_buffers():
            if name in old:  # buffers that are not persistent are not stored
                _parent_rows(buffer, old[name]).copy_(old[name])


def shrink_factor(fresh: nn.Module, old: Mapping[str, Tensor], setting: ShrinkPerturb) -> float:
    """Return the factor on the parent's parameters.

    It is alpha, or a larger factor if alpha would make their norm smaller than `least_norm` times a new network's norm.
    It is at most 1. It is the same for all parameters, so a network with BatchNorm predicts the same classes as before.
    The limit `least_norm` is needed because a run may be too short for shrunk weights to grow back. If every run
    multiplied the weights by alpha, steps would become larger relative to the weights with every drop. Frozen
    parameters do not count.
    """
    trained = [(name, new) for name, new in fresh.named_parameters() if new.requires_grad]
    norms = [(_parent_rows(new, old[name]).norm(), old[name].norm()) for name, new in trained]
    own, theirs = (math.hypot(*(float(norm) for norm in column)) for column in zip(*norms, strict=True))
    least = setting.least_norm * own / theirs if theirs else 0.0
    return min(1.0, max(setting.alpha, least))


@torch.no_grad()
def load_body(fresh: nn.Module, pretrained: Mapping[str, Tensor] | None) -> None:
    """Load pretrained weights into the parameters and buffers of a network's body. The head is not changed."""
    if pretrained:
        fresh.load_state_dict(dict(pretrained), strict=False)


@torch.no_grad()
def add_noise(
    fresh: nn.Module, old: Mapping[str, Tensor], deviation: float, generator: torch.Generator | None = None
) -> None:
    """Set θ = old + ε, where ε is normal with mean 0 and this standard deviation (Ash & Adams, section 3.7).

    Only parameters get noise. Buffers come from the parent, and new rows stay fresh. Raises `ModelError` and changes
    nothing if `old` does not fit.
    """
    warm_start(fresh, old)
    for name, parameter in fresh.named_parameters():
        seen = _parent_rows(parameter, old[name])
        seen.add_(torch.randn(seen.shape, generator=generator).to(seen), alpha=deviation)


@torch.no_grad()
def scale_parameters(network: nn.Module, factor: float) -> None:
    """Set θ = factor·θ, for parameters (Verwimp et al., Table 1: the initialization aspect of a scratch run)."""
    for parameter in network.parameters():
        parameter.mul_(factor)


def initialize(
    setting: Initialization,
    fresh: nn.Module,
    old: Mapping[str, Tensor] | None,
    pretrained: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Set `fresh` to the weights with which a run starts. `old` is None without a parent.

    Noise is drawn from `generator`, or from torch's global generator if it is None. Raises `ModelError` if the setting
    needs a parent and there is none, or if the parent does not fit. Raises ValueError for `auto`: planning resolves it.
    """
    if isinstance(setting, Auto):
        raise ValueError("the initialization is still auto: resolve it first")
    if isinstance(setting, Fresh):
        load_body(fresh, pretrained)
        scale_parameters(fresh, setting.scale)
        return
    if old is None:
        raise ModelError(
            f"recipe.initialization: {setting.name!r} needs a parent's weights and there are none; use 'fresh'"
        )
    match setting:
        case Warm():
            warm_start(fresh, old)
        case ShrinkPerturb():
            shrink_perturb(fresh, old, setting, pretrained)
        case GaussianNoise(deviation=deviation):
            add_noise(fresh, old, deviation, generator)


def _parent_rows(tensor: Tensor, old: Tensor) -> Tensor:
    """Return a view of `tensor` that has only the rows of the parent's tensor."""
    return tensor[tuple(slice(size) for size in old.shape)]


def _check_fit(fresh: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` if the tensors do not fit.

    The message names the first tensor that is missing on one side, or that has another shape.
    """
    for name in [*fresh, *(name for name in old if name not in fresh)]:
        own, theirs = _shape(fresh, name), _shape(old, name)
        if own is None or theirs is None or not may_grow(theirs, own):
            raise ModelError(
                f"the parent's weights do not fit the network at {name}: {_describe_shape(theirs)} in the parent, "
                f"{_describe_shape(own)} in the network; only rows for new classes may be added"
            )


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def may_grow(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Return whether a tensor may grow from one shape to another. Only rows for new classes may be added."""
    return len(old) == len(new) and old[:1] <= new[:1] and old[1:] == new[1:]


def _describe_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"shape {list(shape)}"


def body_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of all modules except the last module that has parameters."""
    last = {id(parameter) for parameter in _last_layer(network)[1].parameters(recurse=False)}
    return [each for each in network.parameters() if each.requires_grad and id(each) not in last]


def find_head(network: nn.Module) -> tuple[str, nn.Linear] | None:
    """Return the name and module of the last layer, or None if it is not linear."""
    name, last = _last_layer(network)
    return (name, last) if isinstance(last, nn.Linear) else None


def head_prefix(network: nn.Module) -> str:
    """Return the prefix of the names of the last layer's tensors."""
    name, _ = _last_layer(network)
    return f"{name}." if name else ""


def _last_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the last module that has parameters of its own, and its name."""
    owners: list[tuple[str, nn.Module]] = [
        each for each in network.named_modules() if any(True for _ in each[1].parameters(recurse=False))
    ]
    return owners[-1]


def class_mean_rows(
    means: Tensor, counts: Tensor, old_mean: Tensor, old_rows: Tensor, old_bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the head's rows for new classes [K, F] and their biases [K], computed from the parent's features.

    `means` [K, F] are the mean features of the classes, over `counts` [K] images. `old_mean` [F] is the mean feature of
    old samples. `old_rows` [C, F] and `old_bias` [C] are the parent's head.

    A new row is the mean old row plus a vector. The vector points from the mean feature of all classes to the mean
    feature of the new class (`old_mean` is used for each old class). Its component along the mean feature of all
    classes is removed: features after a ReLU have a large mean, and without normalization the network would predict new
    classes for nearly all images. The length of the vector is the mean distance of the old rows from their mean. A
    class without images gets the mean old row.
    """
    has_images = (counts > 0).unsqueeze(1)
    means = torch.where(has_images, means, old_mean)
    centre = (means.sum(0) + len(old_rows) * old_mean) / (len(means) + len(old_rows))
    axis = functional.normalize(centre, dim=0)
    difference = means - centre
    direction = functional.normalize(difference - (difference @ axis).unsqueeze(1) * axis, dim=1)
    base = old_rows.mean(0)
    length = (old_rows - base).norm(dim=1).mean()
    rows = base + torch.where(has_images, direction * length, 0.0)
    return rows, None if old_bias is None else old_bias.mean().expand(len(means)).clone()


@torch.no_grad()
def zero_gradients(parameters: Sequence[Tensor]) -> None:
    """Set the parameters' gradients to zero, in place.

    An optimizer without weight decay, whose moments are zero, then leaves them unchanged.
    """
    if gradients := [each.grad for each in parameters if each.grad is not None]:
        torch._foreach_zero_(gradients)
