"""Averaging: evaluation and promotion use a moving average of the weights (Karras et al., 2024, section 3.1).

After every iteration, the parameters and BatchNorm's running statistics are added to the average. The average is
updated in place, without waiting for the device.
"""

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from retrain.config.task import Averaging, ExponentialAverage, NoAverage, PowerAverage


def share_of_newest(setting: Averaging, count: int) -> float:
    """Return the share of the newest weights in the average after `count` updates. `count` is at least 1.

    The first update copies the weights, so the weights before it have no share. `power`: 1 - (1 - 1/t)^(gamma + 1) at
    update t. `ema`: the exponential average, corrected for the small number of updates so far (Kingma & Ba, 2015,
    section 3). Raises ValueError for `auto`: planning resolves it.
    """
    match setting:
        case PowerAverage(gamma=gamma):
            return float(1 - (1 - 1 / count) ** (gamma + 1))
        case ExponentialAverage(decay=decay):
            return float((1 - decay) / (1 - decay**count))
        case NoAverage():
            return 1.0
    raise ValueError("averaging is still auto: resolve it first")


class AveragedNetwork:
    """A second network whose weights are the average of the trained network's weights.

    Without averaging, it is the trained network.
    """

    def __init__(self, setting: Averaging, trained: nn.Module) -> None:
        share_of_newest(setting, 1)  # raises ValueError for `auto`
        self.setting = setting
        self._trained, self._network = trained, trained
        self._newest: list[Tensor] = []
        self._average: list[Tensor] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        self._buffers = dict(trained.named_buffers())
        if not isinstance(setting, NoAverage):
            self._network = copy.deepcopy(trained).requires_grad_(False)
            self._pair()

    def _pair(self) -> None:
        """Pair the trained tensors with their averages.

        Integers, such as counts of batches, are only copied. So are buffers with infinite values, such as masks of
        attention, because the difference of two infinities is NaN.
        """
        for newest, average in zip(_tensors(self._trained), _tensors(self._network), strict=True):
            if newest.is_floating_point() and not newest.isinf().any():
                self._newest.append(newest.detach())
                self._average.append(average.detach())
            else:
                self._copied.append((average, newest))

    def share(self, count: int) -> float:
        """Return the share of the newest weights in update number `count` of this run."""
        return share_of_newest(self.setting, count)

    @torch.no_grad()
    def add(self, share: float | Tensor) -> None:
        """Add the trained weights to the average with this share.

        `share` is a number, or a scalar tensor on the weights' device.
        """
        if not self._average:
            return
        if isinstance(share, Tensor):
            change = torch._foreach_sub(self._newest, self._average)
            torch._foreach_mul_(change, share)
            torch._foreach_add_(self._average, list(change))
        else:
            torch._foreach_lerp_(self._average, self._newest, share)

    @torch.no_grad()
    def network(self) -> nn.Module:
        """Return the network to evaluate and to promote. It shares its tensors with the average.

        If a forward pass has replaced a buffer of the trained network by a new tensor, this tensor is copied.
        """
        for average, newest in self._copied:
            average.copy_(newest)
        for name, buffer in self._trained.named_buffers():
            if name in self._buffers and buffer is not self._buffers[name]:
                module, _, own_name = name.rpartition(".")
                setattr(self._network.get_submodule(module), own_name, buffer.clone())
        return self._network

    def tensors(self) -> dict[str, Tensor]:
        """Return the average's tensors by name. Without averaging there are none.

        The tensors and the count of updates are the complete state of the average.
        """
        return {} if self._network is self._trained else dict(self._network.state_dict())


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return chain(network.parameters(), network.buffers())
