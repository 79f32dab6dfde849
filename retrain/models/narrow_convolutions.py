"""Work around a bug of oneDNN, which computes convolutions on the CPU.

Its backward pass of a strided 1x1 convolution writes past its workspace if the images are channels_last and have fewer
channels than a vector has floats: 8 with AVX2, 16 with AVX-512 (uxlfoundation/oneDNN#6035, open with torch 2.15). The
shortcuts of thin residual networks are of this kind, and training them corrupts the heap.

A strided 1x1 convolution reads only every n-th pixel. This module selects these pixels first and convolves without a
stride.
"""

from typing import Any

from torch import Tensor, nn

VECTOR = 16
"""Floats of the longest vector."""


def avoid_strided_convolutions(network: nn.Module) -> None:
    """Replace the stride of each affected convolution by a selection of pixels before it. Idempotent."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _is_affected(module):
            module.register_forward_pre_hook(_Subsample(*module.stride))
            module.stride = (1, 1)


def _is_affected(convolution: nn.Conv2d) -> bool:
    narrow = convolution.in_channels // convolution.groups < VECTOR
    bare = set(convolution.kernel_size) == {1} and convolution.padding in ((0, 0), "valid")
    return narrow and bare and max(convolution.stride) > 1


class _Subsample:
    """Selects the pixels that a stride would visit: [N, C, H, W] -> [N, C, H / down, W / right]."""

    def __init__(self, down: int, right: int) -> None:
        self.down, self.right = down, right

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        """Return the selected pixels as the convolution's input (a forward pre-hook)."""
        return (inputs[0][:, :, :: self.down, :: self.right],)
