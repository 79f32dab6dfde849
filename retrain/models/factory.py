"""Networks by name: torchvision's, timm's, `mlp`, `logistic`, `mixer`, and any `package.module:factory`."""

import copy
import importlib.util
import math
from collections.abc import Callable, Collection
from functools import wraps
from math import prod
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from retrain.config.frame import Shape, as_frame, image_shape
from retrain.config.task import Model
from retrain.errors import ModelError
from retrain.models.mixer import mixer
from retrain.models.onednn_bugs import avoid_strided_convolutions
from retrain.models.options import check_options, unknown_option
from retrain.models.pretrained import TIMM, body_weights, timm_config
from retrain.models.resnets import RESNETS, check_counts, resnet_factory
from retrain.utils.text import did_you_mean

ELEMENTWISE = (
    nn.Flatten | nn.Identity | nn.Dropout | nn.Tanh | nn.Sigmoid | nn.ReLU | nn.LeakyReLU | nn.ELU | nn.GELU | nn.SiLU
)
"""Layers of a perceptron that have no weights and do not mix features."""


NO_MEMORY = "can't allocate memory"
"""Part of torch's message if the CPU's memory does not suffice. Torch has no type for this error."""


def build_network(model: Model, classes: int, image_size: Shape, seed: int) -> nn.Module:
    """Return a newly initialized network, [N, 3, height, width] -> [N, classes] logits.

    The same seed gives the same weights. The caller's random state does not change. Raises `ModelError` for a name or
    option that does not exist.
    """
    factory = _find_factory(model)
    check_options(model, factory)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network = factory(classes=classes, image_size=image_size, **model.options)
        except Exception as error:  # a user's factory may raise any error
            if unknown := unknown_option(model, factory, error):
                raise unknown from error
            _explain_memory(model, image_size, error)
            what = f"options {model.options} do not fit" if model.options else "cannot be built"
            raise ModelError(f"model {model.name}: {what}: {error}") from error
        if not isinstance(network, nn.Module):
            raise ModelError(
                f"model {model.name}: the factory returned {type(network).__name__}, not a torch.nn.Module"
            )
    return network


def check_network(model: Model, classes: int, image_size: Shape, pretrained: bytes | None = None) -> None:
    """Build a network and try it on two images, as training will use it. Raises `ModelError` if this fails.

    `pretrained` is the safetensors file of its initial weights. They must fit the network. The images are on
    the CPU. Torch's `meta` device would need no computation, but its import takes seconds.
    """
    network, frame = build_network(model, classes, image_size, seed=0).train(), as_frame(image_size)
    _check_parameters(model, network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            logits = network(torch.zeros(2, *image_shape(image_size)))
        except Exception as error:  # a user's network may raise any error
            _explain_memory(model, image_size, error)
            raise ModelError(
                f"model {model.name}: does not accept {frame.height}x{frame.width} images: {error}"
            ) from error
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [2, classes]:
        raise ModelError(
            f"model {model.name}: returns {shape} for 2 images and {classes} classes; it must return [2, {classes}]"
        )
    if pretrained is not None:
        body_weights(network, pretrained)


def _check_parameters(model: Model, network: nn.Module) -> None:
    """Raise `ModelError` if a network has no parameter to train, or if training cannot initialize or copy it."""
    parameters = dict(network.named_parameters())
    if lazy := [name for name, parameter in parameters.items() if is_lazy(parameter)]:
        raise ModelError(
            f"model {model.name}: the shape of {lazy[0]} is unknown, because its layer is lazy: state the shape, or "
            "call the network once on images in the factory"
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ModelError(
            f"model {model.name}: has no parameter that can be trained: set requires_grad to True for at least one"
        )
    try:
        copy.deepcopy(network)
    except Exception as error:  # a user's network may raise any error
        raise ModelError(f"model {model.name}: copy.deepcopy cannot copy the network: {error}") from error


def _explain_memory(model: Model, image_size: Shape, error: Exception) -> None:
    """Raise `ModelError`, with the settings to reduce, if a network failed because it needs too much memory."""
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        frame = as_frame(image_size)
        options = f"model.options ({model.options}) or " if model.options else ""
        raise ModelError(
            f"model {model.name}: needs more memory than this machine has: reduce {options}"
            f"data.image_size ({frame.height}x{frame.width}), or choose a smaller network in model.name"
        ) from error


def check_factory_allowed(model: Model, factories: Collection[str]) -> None:
    """Raise `ModelError` if a model is a factory that is not in the allowed `factories`, because a factory is code."""
    if ":" in model.name and model.name not in factories:
        raise ModelError(
            f"model {model.name}: a plan in the store names this factory, but the task file does not allow it; if you "
            f"trust its code, add it to `factories` in the task file, or in Python pass factories=[{model.name!r}]"
        )


def has_normalization(network: nn.Module) -> bool:
    """Return whether a network has BatchNorm layers. Shrinking its weights then does not change its outputs.

    Other normalizations do not count. A network with GroupNorm ended at an accuracy 7 points lower with its parent's
    weights shrunk than with them unchanged.
    """
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def weight_scale(network: nn.Module) -> float | None:
    """Return the root mean square of a layer's weights, for the linear or convolutional layer where it is smallest.

    None without such layers, or if weights are not finite, as after a diverged run. Steps of Adam have the size of the
    learning rate, so relative to its weights they change this layer most.
    """
    layers = (module for module in network.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd))
    scales = [_scale(layer) for layer in layers]
    return min(scales) if scales and all(map(math.isfinite, scales)) else None


def output_change(network: nn.Module) -> float | None:
    """Return the relative change of a perceptron's outputs if all its weights change by one. None for other networks.

    A perceptron is a sequence of linear layers and of the layers in `ELEMENTWISE`. The inputs of a layer may all change
    its outputs in the same direction. n inputs then change the outputs by n times the change of a weight. The outputs
    themselves have the size of sqrt(n) times the root mean square of the weights. The changes of all layers add up.
    None if a weight is not finite, or if all weights of a layer are zero.
    """
    modules = [module for module in network.modules() if not isinstance(module, nn.Sequential)]
    layers = [module for module in modules if isinstance(module, nn.Linear)]
    if not layers or not all(isinstance(module, nn.Linear | ELEMENTWISE) for module in modules):
        return None
    scales = [_scale(layer) for layer in layers]
    if not all(scale and math.isfinite(scale) for scale in scales):
        return None
    return sum(math.sqrt(layer.in_features) / scale for layer, scale in zip(layers, scales, strict=True))


def _scale(layer: nn.Linear | nn.modules.conv._ConvNd) -> float:
    """Return the root mean square of a layer's weights."""
    return float(layer.weight.detach().square().mean().sqrt())


def is_installed(model: Model) -> bool:
    """Return whether the module of the model's factory, or timm, is installed. The factory itself is not checked."""
    module, colon, _ = model.name.partition(":")
    if model.name.startswith(TIMM):
        module, colon = "timm", ":"
    try:
        return not colon or importlib.util.find_spec(module) is not None
    except Exception:  # the import of a package that contains the module may raise any error
        return False


def to_device_channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network on a device, ready for training. Its convolutions' weights are in channels_last order."""
    network = network.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        avoid_strided_convolutions(network)
    return network


def _find_factory(model: Model) -> Callable[..., Any]:
    if ":" in model.name:
        return _import_factory(model.name)
    if model.name in OWN:
        return OWN[model.name]
    if model.name.startswith(TIMM):
        return timm_factory(model)
    if model.name in RESNETS:
        return resnet_factory(model)
    return torchvision_factory(model)


def _import_factory(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may raise any error
        hint = (
            "; install its package, or add its folder to PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        )
        raise ModelError(f"model.name: cannot import {name!r}: {error}{_describe_place(error)}{hint}") from error
    if not callable(factory):
        raise ModelError(f"model.name: {name!r} is not callable: name a function that returns a torch.nn.Module")
    return factory  # type: ignore[no-any-return]  # any callable may be named; its result is checked


def _describe_place(error: Exception) -> str:
    """Return an error's type, and the file and line of the user's module that raised it. Empty outside of modules."""
    frames = [frame for frame in extract_tb(error.__traceback__)[1:] if "importlib" not in frame.filename]
    return f" ({type(error).__name__}, {frames[0].filename}, line {frames[0].lineno})" if frames else ""


def mlp(classes: int, image_size: Shape, width: int = 100) -> nn.Sequential:
    """Return the three-layer tanh perceptron of Ash & Adams (section 2)."""
    check_counts(width=width)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(image_shape(image_size)), width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, classes),
    )


def logistic(classes: int, image_size: Shape) -> nn.Sequential:
    """Return multinomial logistic regression (Ash & Adams, section 2)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape(image_size)), classes))


OWN: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "logistic": logistic, "mixer": mixer}
"""Networks that are defined in this package, by name."""


def torchvision_factory(model: Model) -> Callable[..., nn.Module]:
    """Return the factory of a network by torchvision's name. Raises `ModelError` if there is none."""
    from torchvision import models  # this takes seconds, and other networks do not need it

    if model.name not in (names := models.list_models(module=models)):
        hint = did_you_mean(model.name, {name: name for name in [*OWN, *names]})
        raise ModelError(
            f"model.name: there is no model {model.name!r}; allowed: mlp, logistic, mixer, a torchvision classifier "
            f"({', '.join(RESNETS)}, mobilenet_v3_small, ...), timm/NAME or package.module:factory{hint}"
        )
    _refuse_small_stem(model)
    builder = models.get_model_builder(model.name)
    own = _inception_arguments(model)

    @wraps(builder)  # the signature of the builder states the options
    def build(classes: int, image_size: Shape, **options: Any) -> nn.Module:
        return builder(num_classes=classes, **own | options)  # type: ignore[no-any-return]

    return build


def _inception_arguments(model: Model) -> dict[str, Any]:
    """Return the arguments that training needs for a network of the Inception family.

    With auxiliary classifiers, such a network would return several outputs. Its pretrained weights need images that the
    network normalizes itself.
    """
    if model.name not in ("googlenet", "inception_v3"):
        return {}
    pretrained = bool(model.pretrained or model.pretrained_sha256)
    return {"aux_logits": False, "init_weights": True, "transform_input": pretrained}


def _refuse_small_stem(model: Model) -> None:
    if model.stem == "small":
        raise ModelError(
            f"model.stem: small exists only for {', '.join(RESNETS)}; set `stem: standard` for {model.name}"
        )


def timm_factory(model: Model) -> Callable[..., nn.Module]:
    """Return the factory of a timm network, for any image size. Raises `ModelError` if timm has no such network."""
    timm_config(model)
    _refuse_small_stem(model)
    import timm
    from timm.models import model_entrypoint

    @wraps(model_entrypoint(model.name.removeprefix(TIMM)))
    def build(classes: int, image_size: Shape, **options: Any) -> nn.Module:
        arguments = timm_arguments(model, image_size) | options
        name = model.name.removeprefix(TIMM)
        return timm.create_model(name, pretrained=False, num_classes=classes, **arguments)

    return build


def timm_arguments(model: Model, image_size: Shape) -> dict[str, Any]:
    """Return arguments of `timm.create_model` for the options, and for an image size that is not timm's default."""
    config = timm_config(model)
    is_other_size = config.fixed_input_size and image_shape(image_size) != config.input_size
    return ({"img_size": image_size} if is_other_size else {}) | model.options
