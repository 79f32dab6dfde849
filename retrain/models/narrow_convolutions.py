"""Work around a bug in oneDNN's convolutions on the CPU.

The backward pass of a strided 1x1 convolution writes past the end of its buffer in one case: the images are
channels_last, and have fewer channels than a vector register has floats (8 with AVX2, 16 with AVX-512). The bug is
uxlfoundation/oneDNN#6035. It is not fixed in torch 2.15. Narrow residual networks have such convolutions in their
shortcuts, and training them corrupts the heap.

A strided 1x1 convolution reads only every n-th pixel. This module first selects these pixels and then convolves without
a stride.
"""

from typing import Any

from torch import Tensor, nn

VECTOR = 16
"""Number of floats in the longest vector register (AVX-512). Convolutions with fewer channels are affected."""


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
    """Selects the pixels that a strided 1x1 convolution reads: [N, C, H, W] -> [N, C, H / down, W / right]."""

    def __init__(self, down: int, right: int) -> None:
        self.down, self.right = down, right

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        """Return the selected pixels as the convolution's input (a forward pre-hook)."""
        return (inputs[0][:, :, :: self.down, :: self.right],)
