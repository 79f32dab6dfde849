"""Residual networks (He et al., 2016) as torchvision builds them, bit for bit. They can have any width and a small
stem.

The default network is one of them. They are built here because importing torchvision takes longer than importing torch.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from retrain.config.frame import Shape
from retrain.config.task import Model
from retrain.models.blocked_layout import apply_in_blocks, fits_blocks, is_mixed_precision_on_cpu

Norm = Literal["batch", "group", "none"]

GROUPS = 8
"""Largest number of groups of a GroupNorm. With 32 to 256 channels, a group has 4 to 32 channels."""


def _conv(inputs: int, outputs: int, kernel: int, norm: Norm, stride: int = 1) -> nn.Conv2d:
    """Return a convolution. It has no bias before a normalization layer, because that layer has one."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")


def _norm(channels: int, norm: Norm) -> nn.Module:
    """Return a normalization layer, or none. Raises `ValueError` for a kind that does not exist."""
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
        case "none":
            return nn.Identity()
    raise ValueError(f"norm {norm!r} does not exist; allowed: batch, group, none")


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """Return the layers of a block's shortcut, or None if its input already has its output's shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, norm, stride), _norm(outputs, norm))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: [N, inputs, S, S] -> [N, channels, S / stride, S / stride]."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        shortcut = _shortcut(inputs, channels, stride, norm)  # first, to draw random weights in torchvision's order
        self.conv1 = _conv(inputs, channels, 3, norm, stride)
        self.bn1 = _norm(channels, norm)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3, norm)
        self.bn2 = _norm(channels, norm)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of the convolutions' output and the shortcut, rectified."""
        found: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images)))))
        found += images if self.downsample is None else self.downsample(images)
        return self.relu(found)  # type: ignore[no-any-return]  # torch's modules return Any


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions.

    It computes [N, inputs, S, S] -> [N, 4 * channels, S / stride, S / stride].
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = channels * self.expansion
        shortcut = _shortcut(inputs, outputs, stride, norm)
        self.conv1 = _conv(inputs, channels, 1, norm)
        self.bn1 = _norm(channels, norm)
        self.conv2 = _conv(channels, channels, 3, norm, stride)
        self.bn2 = _norm(channels, norm)
        self.conv3 = _conv(channels, outputs, 1, norm)
        self.bn3 = _norm(outputs, norm)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of the convolutions' output and the shortcut, rectified."""
        found: Tensor = self.relu(self.bn1(self.conv1(images)))
        found = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(found)))))
        found += images if self.downsample is None else self.downsample(images)
        return self.relu(found)  # type: ignore[no-any-return]  # torch's modules return Any


RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """Computes [N, 3, S, S] -> [N, classes] logits, by four stages of blocks. Each stage doubles the channels."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, name: str, small: bool, classes: int, width: int, norm: Norm) -> None:
        super().__init__()
        block, depths = RESNETS[name]
        self.conv1 = _conv(3, width, 3, norm) if small else _conv(3, width, 7, norm, stride=2)
        self.bn1 = _norm(width, norm)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inputs = width
        for stage, depth in enumerate(depths):
            channels = width << stage
            blocks = nn.Sequential()
            for number in range(depth):
                blocks.append(block(inputs, channels, 2 if stage and number == 0 else 1, norm))
                inputs = channels * block.expansion
            self.add_module(f"layer{stage + 1}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if norm == "none":
            self._start_blocks_as_shortcuts()
        self._fits_blocks = fits_blocks(width, self.bn1)

    def _start_blocks_as_shortcuts(self) -> None:
        """Set every block's last convolution to zero.

        Without normalization, activations would otherwise double in each block.
        """
        for block in self.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                nn.init.zeros_((block.conv3 if isinstance(block, Bottleneck) else block.conv2).weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        if self.training and self._fits_blocks and is_mixed_precision_on_cpu(images):
            found = apply_in_blocks(self._convolve, images)
        else:
            found = self._convolve(images)
        return self.fc(torch.flatten(self.avgpool(found), 1))  # type: ignore[no-any-return]  # as above

    def _convolve(self, images: Tensor) -> Tensor:
        """Return the output of the last stage."""
        found: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            found = stage(found)
        return found


def check_counts(**counts: object) -> None:
    """Raise `ValueError` for an invalid number, such as `width`. Torch's messages would not name the option."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {count!r}")


def resnet_factory(model: Model) -> Callable[..., nn.Module]:
    """Return the factory of a residual network.

    `width` is the number of channels of its first stage. The small stem is a 3x3 convolution of stride 1 and no
    max-pooling, as is usual for images up to 64 pixels. `norm` is batch, group or none.
    """
    return partial(_resnet, model.name, model.stem == "small")


def _resnet(name: str, small: bool, classes: int, image_size: Shape, width: int = 64, norm: Norm = "batch") -> ResNet:
    check_counts(width=width)
    return ResNet(name, small, classes, width, norm)
