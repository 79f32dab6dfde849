"""Train residual networks in oneDNN's blocked memory layout. This is used only for bfloat16 on the CPU.

In the layout channels_last, oneDNN computes only the convolutions. Torch computes batch normalization, ReLU and
additions. These operations take a fifth of a training step of a narrow network. In the blocked layout (nChw16c,
blocks of 16 channels), oneDNN computes all of these layers, more than twice as fast. `docs/performance.md` has the
measurements.

The two layouts round sums differently. Training in float32 uses channels_last, because recorded results in float32
must stay repeatable bit for bit. Evaluation also uses it, because exported networks are compared with its results.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

BLOCK = 16
"""Channels of a block. oneDNN pads other numbers of channels: at width 24, steps took 5% longer than in
channels_last."""


def fits_blocks(width: int, normalization: nn.Module) -> bool:
    """Return whether a residual network of this width has only layers that oneDNN computes in complete blocks."""
    return width % BLOCK == 0 and isinstance(normalization, nn.BatchNorm2d)


def is_mixed_precision_on_cpu(images: Tensor) -> bool:
    """Return whether the images are bfloat16 under autocast on a CPU with fast bfloat16, and torch is not compiling."""
    return (
        images.dtype == torch.bfloat16
        and images.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def apply_in_blocks(body: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the body's output for bfloat16 images, computed in the blocked layout. The output is float32 in
    torch's layout.

    The gradients of the body's weights are float32. BatchNorm layers must be in training mode.
    """
    with torch.autocast("cpu", enabled=False):  # oneDNN rounds the weights itself
        return body(images.to_mkldnn()).to_dense(torch.float32)
