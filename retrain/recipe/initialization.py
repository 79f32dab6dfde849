"""Initialization: where the weights of a run start (Verwimp et al., section 3.1; Ash & Adams, 2020).

`old` is the parent's state dict, `fresh` a newly initialised network, changed in place. `pretrained` are the weights of
its body, where the task has some: then they take the place of zero, which weights are shrunk to. A tensor of `fresh`
may have more rows (dimension 0) than the parent's, as the head has when classes were added: the rows that the parent
never saw keep their full fresh initialization, or are made of class means of the parent's features beforehand."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain.config.recipe import Auto, Fresh, GaussianNoise, Initialization, ShrinkPerturb, Warm
from retrain.errors import ModelError


@torch.no_grad()
def warm_start(fresh: nn.Module, old: Mapping[str, Tensor]) -> None:
    """θ = old, for parameters and buffers. Raises `ModelError`, changing nothing, if `old` does not fit."""
    _check_fit(fresh.state_dict(), old)
    for name, tensor in fresh.state_dict().items():
        _parent_rows(tensor, old[name]).copy_(old[name])


@torch.no_grad()
def shrink_perturb(
    fresh: nn.Module, old: Mapping[str, Tensor], setting: ShrinkPerturb, pretrained: Mapping[str, Tensor] | None = None
) -> None:
    """θ = α·old + β·fresh, for parameters (Verwimp et al., eq. 4).

    A pretrained body is shrunk towards its pretrained weights: θ = pretrained + α·(old - pretrained) + β·fresh. These
    are eq. 4 of the changes that training has made to it.

    The perturbation is a newly initialised network rather than Gaussian noise, and buffers keep their fresh values, so
    that BatchNorm's running statistics start afresh: both as in the published code of Ash & Adams. On request buffers
    are the parent's, and rows that the parent never saw are β·fresh too. α is larger where `least_norm` asks for it.
    Raises `ModelError`, changing nothing, if `old` does not fit.
    """
    _check_fit(fresh.state_dict(), old)
    centre = pretrained or {}
    alpha = setting.alpha if pretrained else shrink_factor(fresh, old, setting)
    for name, parameter in fresh.named_parameters():
        seen = _parent_rows(parameter, old[name])
        (parameter if setting.new_rows == "perturbed" else seen).mul_(setting.beta)
        seen.add_(old[name].to(seen), alpha=alpha)
        if name in centre:
            parameter.add_(centre[name].to(parameter), alpha=1 - alpha)
    if setting.buffers == "old":
        for name, buffer in fresh.named_buffers():
            _parent_rows(buffer, old[name]).copy_(old[name])


def shrink_factor(fresh: nn.Module, old: Mapping[str, Tensor], setting: ShrinkPerturb) -> float:
    """Return the factor on the parent's parameters: alpha, or more where they would become smaller than `least_norm`.

    It is at most 1. It is the same for all parameters, since a network with BatchNorm then predicts the same classes.
    A run may be too short to grow weights back that were shrunk before it. If each run of a lineage shrank them by
    alpha, the step would become larger beside the weights with every drop.
    """
    norms = [(_parent_rows(new, old[name]).norm(), old[name].norm()) for name, new in fresh.named_parameters()]
    own, theirs = (math.hypot(*(float(norm) for norm in column)) for column in zip(*norms, strict=True))
    least = setting.least_norm * own / theirs if theirs else 0.0
    return min(1.0, max(setting.alpha, least))


@torch.no_grad()
def load_body(fresh: nn.Module, pretrained: Mapping[str, Tensor] | None) -> None:
    """Give a network the pretrained weights of its body, parameters and buffers; its head stays as it is."""
    if pretrained:
        fresh.load_state_dict(dict(pretrained), strict=False)


@torch.no_grad()
def add_noise(
    fresh: nn.Module, old: Mapping[str, Tensor], deviation: float, generator: torch.Generator | None = None
) -> None:
    """θ = old + ε, ε normal with mean 0 and this standard deviation (Ash & Adams, section 3.7).

    Parameters alone get noise; buffers are the parent's, and rows that the parent never saw stay fresh. Raises
    `ModelError`, changing nothing, if `old` does not fit.
    """
    warm_start(fresh, old)
    for name, parameter in fresh.named_parameters():
        seen = _parent_rows(parameter, old[name])
        seen.add_(torch.randn(seen.shape, generator=generator).to(seen), alpha=deviation)


@torch.no_grad()
def scale_parameters(network: nn.Module, factor: float) -> None:
    """θ = factor·θ, for parameters (Verwimp et al., Table 1: the initialization aspect of a scratch run)."""
    for parameter in network.parameters():
        parameter.mul_(factor)


def initialize(
    setting: Initialization,
    fresh: nn.Module,
    old: Mapping[str, Tensor] | None,
    pretrained: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Bring `fresh` to where a run starts; `old` is None where there is no parent.

    Noise is drawn from `generator`, or from torch's own where it is None. Raises `ModelError` if the setting needs a
    parent that there is not, or that does not fit, and ValueError if it is still `auto`, which a plan has resolved.
    """
    if isinstance(setting, Auto):
        raise ValueError("the initialization is still auto: resolve it first")
    if isinstance(setting, Fresh):
        load_body(fresh, pretrained)
        scale_parameters(fresh, setting.scale)
        return
    if old is None:
        raise ModelError(f"initialization {setting.name!r} needs a parent's weights and there are none; use 'fresh'")
    match setting:
        case Warm():
            warm_start(fresh, old)
        case ShrinkPerturb():
            shrink_perturb(fresh, old, setting, pretrained)
        case GaussianNoise(deviation=deviation):
            add_noise(fresh, old, deviation, generator)


def _parent_rows(tensor: Tensor, old: Tensor) -> Tensor:
    """The view of `tensor` on the rows that the parent has too."""
    return tensor[tuple(slice(size) for size in old.shape)]


def _check_fit(fresh: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` naming the first tensor that only one of the two has, or that has another shape."""
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
    """Say whether a tensor of one shape may become one of another: only rows, for new classes, may be added."""
    return len(old) == len(new) and old[:1] <= new[:1] and old[1:] == new[1:]


def _describe_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"shape {list(shape)}"


def body_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of all modules but the last one that has any."""
    last = {id(parameter) for parameter in _last_layer(network)[1].parameters(recurse=False)}
    return [each for each in network.parameters() if each.requires_grad and id(each) not in last]


def find_head(network: nn.Module) -> tuple[str, nn.Linear] | None:
    """Return the name and module of the last layer, or None if it is not linear."""
    name, last = _last_layer(network)
    return (name, last) if isinstance(last, nn.Linear) else None


def head_prefix(network: nn.Module) -> str:
    """Return what the names of the last layer's tensors begin with."""
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
    """Return the head's rows for new classes [K, F] and their biases [K], made of the parent's features.

    `means` [K, F] are the classes' mean features over `counts` [K] images, `old_mean` [F] that of old samples, and
    `old_rows` [C, F], `old_bias` [C] the parent's head. A row is the mean old row plus the direction in which its class
    differs from the mean feature, as long as old rows differ from their mean. The direction has no part along the mean
    feature itself: features after a ReLU have a large mean, and without normalisation the new classes would win
    everywhere. A class without images gets the mean old row.
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

    An optimiser without weight decay that has seen no other gradient then leaves them as they are.
    """
    torch._foreach_zero_([each.grad for each in parameters if each.grad is not None])
