"""Thin residual networks train on the CPU as torch trains them, without heap corruption."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from support.trainings import CPU
from torch import nn

from retrain.config.task import Model
from retrain.models import factory

TRAIN = """
import sys
import torch
from retrain.models import factory
from retrain.config.task import Model
torch.set_num_threads(1)
network = factory.build_network(Model(options={"width": int(sys.argv[1])}), 5, 8, seed=0).train()
network = factory.to_device_channels_last(network, torch.device("cpu"))
for _ in range(50):
    network(torch.randn(32, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
"""


@pytest.mark.parametrize("width", [4, 8])
def test_narrow_network_training_keeps_the_heap_intact(width: int) -> None:
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}  # glibc's own check of every block
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN, str(width)], env={**os.environ, **checked}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()[-300:]


def test_narrow_convolution_has_torchs_gradients() -> None:
    plain = factory.build_network(Model(options={"width": 4}), 5, 8, seed=0).double().train()
    images = torch.randn(32, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    placed = factory.to_device_channels_last(copy.deepcopy(plain), CPU)
    for network, order in ((plain, torch.contiguous_format), (placed, torch.channels_last)):
        network(images.to(memory_format=order)).square().mean().backward()
    for ours, theirs in zip(placed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_only_narrow_strided_1x1_convolutions_are_replaced() -> None:
    layers = (nn.Conv2d(4, 8, 1, 2), nn.Conv2d(16, 8, 1, 2), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, 2))
    network = factory.to_device_channels_last(nn.Sequential(*layers), CPU)
    assert [layer.stride for layer in network] == [(1, 1), (2, 2), (1, 1), (2, 2)]
    assert network[0](torch.zeros(1, 4, 8, 8)).shape == (1, 8, 4, 4)
