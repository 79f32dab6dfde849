"""In bfloat16 on the CPU, training a ResNet in oneDNN's blocked layout is about as exact as in channels_last."""

import pytest
import torch
from support.trainings import CPU
from torch import Tensor, nn
from torch.nn import functional

from retrain.config.task import Model
from retrain.models import factory, resnets
from retrain.training.hardware import is_bf16_slow

CLASSES, SIZE = 5, 32

needs_bf16 = pytest.mark.skipif(is_bf16_slow(True, CPU), reason="this CPU has no instructions for bfloat16")


def network_of(name: str = "resnet18", stem: str = "small", **options: object) -> nn.Module:
    model = Model.model_validate({"name": name, "stem": stem, "options": {"width": 16, **options}})
    return factory.to_device_channels_last(factory.build_network(model, CLASSES, SIZE, seed=0), CPU).train()


def batch() -> tuple[Tensor, Tensor]:
    """Return images and labels. Like normalized images in training, the images are bfloat16 and channels_last."""
    source = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, SIZE, SIZE, generator=source).bfloat16().to(memory_format=torch.channels_last)
    return images, torch.randint(CLASSES, (32,), generator=source)


def train_step(network: nn.Module, autocast: bool = True) -> Tensor:
    """Compute the gradients of a batch, and return the logits."""
    images, labels = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits: Tensor = network(images if autocast else images.float())
    functional.cross_entropy(logits.float(), labels).backward()
    return logits.detach().float()


def uses_blocks(network: nn.Module, autocast: bool = True) -> bool:
    """Return whether the first stage computes in the blocked layout in a training step."""
    layouts: list[torch.layout] = []
    network.get_submodule("layer1").register_forward_hook(lambda module, inputs, found: layouts.append(found.layout))
    train_step(network, autocast)
    return layouts == [torch._mkldnn]


def error(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference, relative to the norm of the exact values."""
    return float((found - exact).norm() / exact.norm())


def gradient(network: nn.Module, stage: str) -> Tensor:
    """Return the gradients of a stage as one vector."""
    named = [each.grad for name, each in network.named_parameters() if name.startswith(stage)]
    return torch.cat([each.flatten() for each in named if each is not None])


@needs_bf16
@pytest.mark.parametrize("stem", ["small", "standard"])
def test_blocked_layout_rounds_no_worse_than_channels_last(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, channels_last, blocked = (network_of(stem=stem) for _ in range(3))
    logits = [train_step(exact, autocast=False), train_step(blocked)]
    assert uses_blocks(network_of(stem=stem))
    monkeypatch.setattr(resnets, "is_mixed_precision_on_cpu", lambda images: False)
    logits.append(train_step(channels_last))
    assert error(logits[1], logits[0]) < 1.25 * error(logits[2], logits[0]) < 0.1
    for stage in ("conv1", "layer1", "layer2", "layer3", "layer4", "fc"):
        true, other, own = (gradient(network, stage) for network in (exact, channels_last, blocked))
        assert own.dtype == torch.float32
        assert error(own, true) < 1.25 * error(other, true) < 0.6  # the error of another network's gradients is 1.4


@needs_bf16
def test_blocked_layout_updates_running_statistics() -> None:
    exact, blocked = network_of(), network_of()
    train_step(exact, autocast=False)
    assert uses_blocks(blocked)
    for true, ours in zip(exact.buffers(), blocked.buffers(), strict=True):
        torch.testing.assert_close(ours, true, rtol=0.02, atol=0.02)


@needs_bf16
def test_blocked_layout_repeats_bit_for_bit() -> None:
    networks = network_of(), network_of()
    assert torch.equal(*map(train_step, networks))
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one.grad, other.grad)


@needs_bf16
@pytest.mark.parametrize(
    ("name", "options", "used"),
    [
        ("resnet18", {}, True),
        ("resnet50", {"width": 32}, True),
        ("resnet18", {"width": 8}, False),
        ("resnet18", {"width": 24}, False),
        ("resnet18", {"norm": "group"}, False),
    ],
)
def test_blocked_layout_is_used_if_it_is_faster(name: str, options: dict[str, object], used: bool) -> None:
    assert uses_blocks(network_of(name, **options)) == used


def test_blocked_layout_is_not_used_in_float32() -> None:
    assert not uses_blocks(network_of(), autocast=False)


@needs_bf16
def test_blocked_layout_is_not_used_in_evaluation() -> None:
    assert not uses_blocks(network_of().eval())
