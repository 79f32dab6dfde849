"""Strided convolutions train on the CPU without heap corruption, and with torch's own gradients."""

import copy
import os
import subprocess
import sys

import torch
from support.trainings import CPU
from torch import nn

from retrain.config.task import Model
from retrain.models import factory

TRAIN = """
import torch
from retrain.models import factory
from retrain.config.task import Model
torch.set_num_threads(1)
for width in (4, 8):
    print("width", width, flush=True)
    network = factory.build_network(Model(options={"width": width}), 5, 8, seed=0).train()
    network = factory.to_device_channels_last(network, torch.device("cpu"))
    for _ in range(50):
        network(torch.randn(32, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
"""


def test_narrow_network_training_keeps_the_heap_intact() -> None:
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}  # glibc checks every block
    ended = subprocess.run([sys.executable, "-c", TRAIN], env={**os.environ, **checked}, capture_output=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr).decode()[-300:]


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


GRADIENTS = """
import copy
import torch
from torch import nn
from retrain.models import factory
torch.set_num_threads(1)
for side in ((1, 1), (1, 4), (4, 1), (2, 2), (5, 5)):
    print("side", side, flush=True)
    plain = nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False)
    placed = factory.to_device_channels_last(copy.deepcopy(plain), torch.device("cpu"))
    images = torch.randn(32, 64, *side)
    plain(images).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = placed(images.to(memory_format=torch.channels_last))
    found.float().square().sum().backward()
    assert found.shape == plain(images).shape
    ours, theirs = placed.weight.grad, plain.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * theirs.abs().max())
"""


def test_bfloat16_gradients_of_small_maps_match_float32() -> None:
    filled = {"MALLOC_PERTURB_": "129"}  # new memory is filled with large numbers
    ended = subprocess.run([sys.executable, "-c", GRADIENTS], env={**os.environ, **filled}, capture_output=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr).decode()[-600:]


def test_stride_is_ignored_only_for_sides_of_one_pixel() -> None:
    layer = nn.Conv2d(16, 16, 3, stride=2, padding=1)
    for _ in range(2):
        factory.to_device_channels_last(layer, CPU)
    assert len(layer._forward_pre_hooks) == 1
    plain = nn.Conv2d(16, 16, 3, stride=2, padding=1)
    plain.load_state_dict(layer.state_dict())
    for side in ((1, 1), (8, 8), (1, 5), (5, 1)):
        images = torch.randn(2, 16, *side)
        torch.testing.assert_close(layer(images), plain(images))
