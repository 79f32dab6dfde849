"""Torchvision's classifiers by name."""

from collections.abc import Callable

from torch import nn
from torchvision import models

from retrain.config import Model
from retrain.errors import ModelError
from retrain.resnets import RESNETS


def factory(model: Model) -> Callable[..., nn.Module]:
    """Return the factory of a network by torchvision's name. Raises `ModelError` if there is none."""
    if model.name not in models.list_models(module=models):
        raise ModelError(
            f"model.name: there is no model {model.name!r}; allowed: mlp, logistic, a torchvision classifier "
            f"({', '.join(RESNETS)}, mobilenet_v3_small, ...) or package.module:factory"
        )
    if model.stem == "small":
        raise ModelError(f"model.stem: small exists for {', '.join(RESNETS)}; set `stem: standard` for {model.name}")
    return lambda classes, image_size, **options: models.get_model(model.name, num_classes=classes, **options)
