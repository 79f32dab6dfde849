"""Where bfloat16 costs time instead of saving it."""

import torch

SLOW = "training.bf16: this CPU has no AVX-512, and float32 is several times as fast on it"


def is_slow(bf16: bool, device: torch.device) -> bool:
    """Say whether a training in bfloat16 would be slower on a device than one in float32."""
    return bf16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
