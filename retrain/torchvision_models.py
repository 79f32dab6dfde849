"""Torchvision's classifiers by name; its residual networks also thinner, and with a stem for small images."""

from collections.abc import Callable

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from retrain.config import Model
from retrain.errors import ModelError

RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}


def factory(model: Model) -> Callable[..., nn.Module]:
    """Return the factory of a network by torchvision's name. Raises `ModelError` if there is none."""
    if model.name in RESNETS:
        return lambda **options: resnet(model.name, model.stem, **options)
    if model.name not in models.list_models(module=models):
        raise ModelError(
            f"model.name: there is no model {model.name!r}; allowed: mlp, logistic, a torchvision classifier "
            f"({', '.join(RESNETS)}, mobilenet_v3_small, ...) or package.module:factory"
        )
    if model.stem == "small":
        raise ModelError(f"model.stem: small exists for {', '.join(RESNETS)}; set `stem: standard` for {model.name}")
    return lambda classes, image_size, **options: models.get_model(model.name, num_classes=classes, **options)


def resnet(name: str, stem: str, classes: int, image_size: int, width: int = 64) -> ResNet:
    """Return torchvision's residual network, `width` channels in its first stage instead of 64.

    The small stem is a 3x3 convolution of stride 1 and no max-pooling, as is usual for images up to 64 pixels.
    """
    block, layers = RESNETS[name]
    with torch.device("meta"):  # all that has parameters is replaced below
        network = ResNet(block, layers, num_classes=classes)
    kernel, stride = (3, 1) if stem == "small" else (7, 2)
    network.inplanes = width
    network.conv1 = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    network.maxpool = nn.Identity() if stem == "small" else network.maxpool
    for stage, count in enumerate(layers):
        stride = 1 if stage == 0 else 2
        setattr(network, f"layer{stage + 1}", network._make_layer(block, width << stage, count, stride))
    network.fc = nn.Linear(8 * width * block.expansion, classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
