"""Networks by name: torchvision's, `mlp`, `logistic`, and anybody's `package.module:factory`."""

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retrain.config import Model
from retrain.errors import ModelError


def build(model: Model, classes: int, image_size: int, seed: int) -> nn.Module:
    """Return a newly initialised network, [N, 3, image_size, image_size] -> [N, classes] logits.

    The same seed gives the same weights, and the caller's random state is left as it was. Raises `ModelError` for a
    name or option that does not exist, and for a network that does not take such images or give such logits.
    """
    factory = _factory(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network = factory(classes=classes, image_size=image_size, **model.options)
        except Exception as error:  # whatever anybody's factory may raise
            raise ModelError(f"model {model.name}: options {model.options} do not fit: {error}") from error
        if not isinstance(network, nn.Module):
            raise ModelError(
                f"model {model.name}: the factory returned {type(network).__name__}, not a torch.nn.Module"
            )
        _check_logits(network, model.name, classes, image_size)
    return network


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network on a device, its convolutions' weights in channels_last order."""
    return network.to(device).to(memory_format=torch.channels_last)


def _check_logits(network: nn.Module, name: str, classes: int, image_size: int) -> None:
    """Try the network on shapes alone, as training will use it: nothing is computed."""
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    try:
        logits = copy.deepcopy(network).to("meta").train()(images)
    except Exception as error:  # whatever anybody's network may raise
        raise ModelError(f"model {name}: does not take {image_size}x{image_size} images: {error}") from error
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [2, classes]:
        raise ModelError(f"model {name}: gives {shape} for 2 images of {classes} classes; [2, {classes}] is needed")


def _factory(model: Model) -> Callable[..., Any]:
    if ":" in model.name:
        return _imported(model.name)
    if model.name in ("mlp", "logistic"):
        return mlp if model.name == "mlp" else logistic
    from retrain import torchvision_models  # torchvision takes longer to import than torch, and most commands need none

    return torchvision_models.factory(model)


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"model.name: cannot import {name!r}: {error}") from error
    if not callable(factory):
        raise ModelError(f"model.name: {name!r} is not callable")
    return factory  # type: ignore[no-any-return]  # any callable may be named; its result is checked


def mlp(classes: int, image_size: int, width: int = 100) -> nn.Sequential:
    """Return the three-layer tanh perceptron of Ash & Adams (section 2)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * image_size**2, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, classes),
    )


def logistic(classes: int, image_size: int) -> nn.Sequential:
    """Return multinomial logistic regression (Ash & Adams, section 2)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, classes))
