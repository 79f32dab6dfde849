"""Correct the running statistics of new BatchNorm layers in the first iterations.

After N batches the layer's own average still contains the initial values, mean 0 and variance 1, with the weight
(1 - momentum)^N. In the first iterations, the accuracy of an evaluation is therefore near chance. The corrected
statistics are the weighted mean of this run's batches, from the first batch on (Kingma & Ba, 2015, section 3)."""

import math

import torch
from torch import Tensor, nn

NEGLIGIBLE = 1e-9
"""Share of the initial values below which the correction ends. With momentum 0.1, this is after 197 batches."""


STATISTICS = ("running_mean", "running_var")
"""A BatchNorm layer's running statistics."""


class StatisticsCorrection:
    """The correction of the running statistics of a network's new BatchNorm layers, around each iteration.

    The layers themselves are not changed, because compiled code contains their momentum. Networks whose statistics
    come from a parent have no such layers. The statistics are the only state.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [_Layer(module) for module in network.modules() if _is_correctable(module)]
        self._collect()

    def _collect(self) -> None:
        """Prepare to correct all statistics as one tensor. A separate call for each would take 1 ms per step."""
        if not self._layers:
            return
        self._end = min(layer.end for layer in self._layers)
        self._batches = [layer.batches.view(1) for layer in self._layers]
        self._statistics = [tensor for layer in self._layers for tensor in layer.statistics]
        self._corrected = torch.cat(self._statistics)
        self._parts = self._corrected.split_with_sizes([len(tensor) for tensor in self._statistics])
        device = self._corrected.device
        kept = [1 - layer.momentum for layer in self._layers]
        self._kept = torch.tensor(kept, dtype=torch.float32, device=device)
        channels = torch.tensor([sum(map(len, layer.statistics)) for layer in self._layers])
        self._layer_of = torch.arange(len(channels)).repeat_interleave(channels).to(device)

    def is_done(self, iteration: int) -> bool:
        """Return whether nothing is left to correct from iteration `iteration` on, counted from 0."""
        return all(iteration >= layer.end for layer in self._layers)

    def before_forward(self, iteration: int) -> None:
        """Keep a copy of the statistics before iteration `iteration`, counted from 0."""
        if not self._layers:
            return
        with torch.no_grad():
            if iteration < self._end:
                torch.cat(self._statistics, out=self._corrected)
            else:
                self._layers = [layer for layer in self._layers if iteration < layer.end]
                self._collect()

    def after_backward(self) -> None:
        """Correct the statistics for all forward passes since `before_forward`."""
        if not self._layers:
            return
        with torch.no_grad():
            weights = correction_weights(self._kept, torch.cat(self._batches))
            self._corrected.lerp_(torch.cat(self._statistics), weights.index_select(0, self._layer_of))
            torch._foreach_copy_(self._statistics, self._parts)


def correction_weights(kept: Tensor, batches: Tensor) -> Tensor:
    """Return the weights of the layers' own updates in the corrected statistics, after a total of N batches.

    Let c be the last corrected statistic, r the layer's update of c, and q = 1 - momentum. The new corrected statistic
    is (r - q^N c) / (1 - q^N) = c + w (r - c), where w = 1 / (1 - q^N) is the weight. `kept` is q, float32 [L], and
    `batches` N, int64 [L]. Without a batch r equals c, and the weight has no effect.
    """
    return (1 - kept ** batches.clamp(min=1)).reciprocal()


class _Layer:
    """One BatchNorm layer: its running statistics, momentum, and count of batches."""

    def __init__(self, layer: nn.Module) -> None:
        self.statistics = [layer.get_buffer(name) for name in STATISTICS]
        self.batches = layer.get_buffer("num_batches_tracked")
        self.momentum = float(layer.momentum)  # type: ignore[arg-type]  # a number, by `_is_correctable`
        self.end = math.ceil(math.log(NEGLIGIBLE) / math.log1p(-self.momentum)) if self.momentum < 1 else 1
        """Batches after which the share of the initial values is negligible."""


def _is_correctable(module: nn.Module) -> bool:
    """Return whether a module is a BatchNorm layer with a moving average and no batch yet.

    Layers without a momentum weigh all batches equally and need no correction.
    """
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or not module.track_running_stats:
        return False
    mean, variance, batches = module.running_mean, module.running_var, module.num_batches_tracked
    if not module.momentum or mean is None or variance is None or batches is None:
        return False
    return not batches.item() and not mean.any() and bool((variance == 1).all())
