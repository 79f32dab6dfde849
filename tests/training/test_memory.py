"""Memory that a step frees on the CPU is reused by the next step."""

import os
import resource
from multiprocessing.connection import Connection

import torch
from support.processes import forkserver
from torch import nn

from retrain.training.hardware import tune_malloc


def pages(keep: bool, environment: dict[str, str], line: Connection) -> None:
    """Send the number of page faults in ten steps after the first five, and the sum of each parameter's gradient."""
    torch.set_num_threads(1)
    os.environ |= environment
    if keep:
        tune_malloc()
    torch.manual_seed(0)
    network = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())])
    images = torch.randn(128, 8, 32, 32)
    for step in range(15):
        if step == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.autograd.backward(network(images).square().mean())
    came = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    line.send((came, [float(parameter.grad.sum()) for parameter in network.parameters() if parameter.grad is not None]))


def pages_where(keep: bool, **environment: str) -> tuple[int, list[float]]:
    line, other = forkserver().Pipe()
    member = forkserver().Process(target=pages, args=(keep, environment, other))
    member.start()
    told: tuple[int, list[float]] = line.recv()
    member.join()
    return told


def test_step_reuses_freed_pages_and_computes_the_same() -> None:
    (returned, expected), (kept, found) = pages_where(keep=False), pages_where(keep=True)
    assert kept < returned / 3
    assert found == expected
    assert kept < pages_where(keep=True, MALLOC_TRIM_THRESHOLD_="1048576")[0] / 3
