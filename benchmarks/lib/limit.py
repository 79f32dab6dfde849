"""Compute a device's limit: its throughput in a product of matrices, divided by a network's operations per image."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from lib.noise import CLASSES, Case
from retrain.config.task import Model
from retrain.models import factory
from retrain.models.flops import count_flops

ROUNDS = 5
TIMES = 10
"""Number of products in a round."""


class Limit(NamedTuple):
    """Operations of a device per second, and operations to train on one image."""

    throughput: float
    flops: float

    @property
    def speed(self) -> float:
        """Return the largest number of images per second that the device can train on."""
        return self.throughput / self.flops


def limit(case: Case, size: int, device: torch.device, dtype: torch.dtype) -> Limit:
    """Return the limit of a device. It is measured with products of matrices [size, size]."""
    network = factory.build_network(Model(options={"width": case.width}), CLASSES, case.image_size, seed=0)
    return Limit(throughput(size, device, dtype), count_flops(network, case.image_size).training)


def throughput(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second in products of two matrices [size, size]."""
    one, other = torch.randn(2, size, size, device=device, dtype=dtype)

    def multiply() -> None:
        for _ in range(TIMES):
            one @ other

    multiply()
    return TIMES * 2 * size**3 / seconds(multiply, device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until the device has finished the work, as the median of `ROUNDS` rounds."""
    taken = []
    for _ in range(ROUNDS):
        _finish(device)
        began = time.perf_counter()
        work()
        _finish(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
