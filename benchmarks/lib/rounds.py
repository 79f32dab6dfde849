"""Wall time of work on a device: the median of some rounds."""

import statistics
import time
from collections.abc import Callable

import torch

ROUNDS = 5


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time until the device is done."""
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
