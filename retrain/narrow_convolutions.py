"""A way around a fault of oneDNN's, which computes convolutions on the CPU.

Its backward pass of a strided 1x1 convolution writes past its workspace if the images are channels_last and have fewer
channels than a vector has floats: 8 with AVX2, 16 with AVX-512 (uxlfoundation/oneDNN#6035, open with torch 2.15). The
shortcuts of thin residual networks are such ones, and training them ends in a corrupted heap, if not sooner.
"""

from torch import Tensor, contiguous_format, nn

VECTOR = 16
"""Floats of the longest vector."""


def keep_apart(network: nn.Module) -> None:
    """Have every convolution that the fault concerns work in torch's own order; its weights are laid out anew."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _is_concerned(module):
            module.weight.data = _in_torchs_order(module.weight.data)
            module.register_forward_pre_hook(lambda module, inputs: (_in_torchs_order(inputs[0]),))


def _is_concerned(convolution: nn.Conv2d) -> bool:
    narrow = convolution.in_channels // convolution.groups < VECTOR
    return narrow and set(convolution.kernel_size) == {1} and max(convolution.stride) > 1


def _in_torchs_order(tensor: Tensor) -> Tensor:
    """A copy, for `contiguous` leaves what has a single pixel as it is, in both orders at once."""
    return tensor.clone(memory_format=contiguous_format)
