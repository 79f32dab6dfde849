"""Work around two bugs in oneDNN's strided convolutions on the CPU, as torch 2.15 contains it.

1. The backward pass of a strided 1x1 convolution writes past the end of its buffer if the images are channels_last and
   have fewer channels than a vector register has floats (8 with AVX2, 16 with AVX-512): uxlfoundation/oneDNN#6035.
   Narrow residual networks have such convolutions in their shortcuts, and training them corrupts the heap. A strided
   1x1 convolution reads only every n-th pixel. So these pixels are selected first, and then convolved without a stride.
2. In bfloat16, the backward pass of a strided convolution with a larger kernel does not write all gradients of its
   weights if its input has only one column. The other gradients keep the values that were in memory before. Along a
   side of one pixel, a stride does not change the output. It is therefore replaced by 1 there.
"""

from typing import Any

from torch import Tensor, nn

VECTOR = 16
"""Number of floats in the longest vector register (AVX-512). 1x1 convolutions with fewer channels are affected."""


def avoid_strided_convolutions(network: nn.Module) -> None:
    """Replace the strides of affected convolutions where they do not change the output. Idempotent."""
    for module in network.modules():
        if not isinstance(module, nn.Conv2d) or max(module.stride) == 1:
            continue
        if _is_narrow_1x1(module):
            module.register_forward_pre_hook(_Subsample(*module.stride))
            module.stride = (1, 1)
        elif _keeps_single_pixels(module) and not _has_stride_hook(module):
            module.register_forward_pre_hook(_Stride(*module.stride))


def _has_stride_hook(convolution: nn.Conv2d) -> bool:
    return any(isinstance(hook, _Stride) for hook in convolution._forward_pre_hooks.values())


def _is_narrow_1x1(convolution: nn.Conv2d) -> bool:
    narrow = convolution.in_channels // convolution.groups < VECTOR
    return narrow and set(convolution.kernel_size) == {1} and convolution.padding in ((0, 0), "valid")


def _keeps_single_pixels(convolution: nn.Conv2d) -> bool:
    """Return whether a row or column of one pixel keeps this length, whatever the stride is."""
    kernel, padding, dilation = convolution.kernel_size, convolution.padding, convolution.dilation
    if isinstance(padding, str) or max(kernel) == 1:
        return False
    return all(2 * added == step * (size - 1) for size, added, step in zip(kernel, padding, dilation, strict=True))


class _Subsample:
    """Selects the pixels that a strided 1x1 convolution reads: [N, C, H, W] -> [N, C, H / down, W / right]."""

    def __init__(self, down: int, right: int) -> None:
        self.down, self.right = down, right

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        """Return the selected pixels as the convolution's input (a forward pre-hook)."""
        return (inputs[0][:, :, :: self.down, :: self.right],)


class _Stride:
    """Sets a convolution's stride for each batch: 1 along a side of one pixel (a forward pre-hook)."""

    def __init__(self, down: int, right: int) -> None:
        self.down, self.right = down, right

    def __call__(self, module: nn.Conv2d, inputs: tuple[Any, ...]) -> None:
        """Set the stride for these images, [N, C, H, W]."""
        height, width = inputs[0].shape[-2:]
        stride = (1 if height == 1 else self.down, 1 if width == 1 else self.right)
        if module.stride != stride:
            module.stride = stride
