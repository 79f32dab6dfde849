"""Residual networks (He et al., 2016) as torchvision builds them, to the bit, but of any width and with a small stem.

They are the default, and importing torchvision takes longer than importing torch.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from retrain.config.task import Model


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to its output's shape; None where that is its shape already."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [N, inputs, S, S] -> [N, channels, S / stride, S / stride]."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        shortcut = _shortcut(inputs, channels, stride)  # first, as torchvision draws its random weights
        self.conv1 = _conv(inputs, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Add what the convolutions find to the shortcut."""
        found: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images)))))
        found += images if self.downsample is None else self.downsample(images)
        return self.relu(found)  # type: ignore[no-any-return]  # torch's modules return Any


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones: [N, inputs, S, S] -> [N, 4 * channels, S / stride, S / stride]."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        shortcut = _shortcut(inputs, outputs, stride)
        self.conv1 = _conv(inputs, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Add what the convolutions find to the shortcut."""
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
    """[N, 3, S, S] -> [N, classes] logits, by four stages of blocks, each of twice the channels of the one before."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, name: str, small: bool, classes: int, width: int) -> None:
        super().__init__()
        block, depths = RESNETS[name]
        self.conv1 = _conv(3, width, 3) if small else _conv(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inputs = width
        for stage, depth in enumerate(depths):
            channels = width << stage
            blocks = nn.Sequential()
            for number in range(depth):
                blocks.append(block(inputs, channels, 2 if stage and number == 0 else 1))
                inputs = channels * block.expansion
            self.add_module(f"layer{stage + 1}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        found = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            found = stage(found)
        return self.fc(torch.flatten(self.avgpool(found), 1))  # type: ignore[no-any-return]  # as above


def resnet_factory(model: Model) -> Callable[..., nn.Module]:
    """Return the factory of a residual network.

    `width` is the number of channels of its first stage. The small stem is a 3x3 convolution of stride 1 and no
    max-pooling, as is usual for images up to 64 pixels.
    """
    return partial(_resnet, model.name, model.stem == "small")


def _resnet(name: str, small: bool, classes: int, image_size: int, width: int = 64) -> ResNet:
    return ResNet(name, small, classes, width)
