"""Corrected running statistics are the weighted mean over a run's batches. Initial values have no weight."""

import copy

import pytest
import torch
from torch import Tensor, nn

from retrain.recipe.batchnorm import StatisticsCorrection


def network(momentum: float | None = 0.1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.Flatten(), nn.Linear(16, 5))


def batches(count: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [0.02 * torch.randn(8, 3, 4, 4, generator=random) + 3 for _ in range(count)]


def statistics(net: nn.Sequential) -> list[Tensor]:
    return [buffer.clone() for name, buffer in net.named_buffers() if name in ("1.running_mean", "1.running_var")]


def run(net: nn.Sequential, passes: int = 1, count: int = 30) -> list[list[Tensor]]:
    """Return the statistics after each iteration of `passes` forward passes."""
    correction, found = StatisticsCorrection(net), []
    for iteration, images in enumerate(batches(count)):
        correction.before_forward(iteration)
        loss = sum(net(images + 0.01 * number).square().mean() for number in range(passes))
        loss.backward()
        correction.after_backward()
        found.append(statistics(net))
    return found


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.5, 1.0])
def test_statistics_equal_layers_whose_momentum_is_corrected(momentum: float) -> None:
    found = run(network(momentum))
    plain = network(momentum)
    for iteration, images in enumerate(batches(30)):
        plain[1].momentum = momentum / (1 - (1 - momentum) ** (iteration + 1))  # type: ignore[assignment]
        plain(images)
        for corrected, expected in zip(found[iteration], statistics(plain), strict=True):
            torch.testing.assert_close(corrected, expected, rtol=1e-3, atol=1e-5)


def test_each_forward_pass_counts_as_a_batch() -> None:
    found, plain, count = run(network(), passes=3), network(), 0
    for iteration, images in enumerate(batches(30)):
        for number in range(3):
            count += 1
            plain[1].momentum = 0.1 / (1 - 0.9**count)  # type: ignore[assignment]
            plain(images + 0.01 * number)
        for corrected, expected in zip(found[iteration], statistics(plain), strict=True):
            torch.testing.assert_close(corrected, expected, rtol=1e-3, atol=1e-5)


def two_layers() -> nn.Sequential:
    """Return a network with two BatchNorm layers. The first is corrected for 30 batches, the second for 197."""
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(4, momentum=0.5), nn.BatchNorm2d(6, momentum=0.1)
    return nn.Sequential(nn.Conv2d(3, 4, 1), first, nn.Conv2d(4, 6, 3), second)


def test_each_layer_is_corrected_by_its_own_momentum_and_batches() -> None:
    """Every third iteration skips the second BatchNorm layer."""
    corrected, plain, seen = two_layers(), two_layers(), {1: 0, 3: 0}
    correction = StatisticsCorrection(corrected)
    for iteration, images in enumerate(batches(60)):
        used = 2 if iteration % 3 == 1 else 4
        correction.before_forward(iteration)
        corrected[:used](images)
        correction.after_backward()
        for position, momentum in ((1, 0.5), (3, 0.1)):
            if position < used:
                seen[position] += 1
                plain[position].momentum = momentum / (1 - (1 - momentum) ** seen[position])  # type: ignore[assignment]
        plain[:used](images)
        for (name, own), expected in zip(corrected.named_buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5, msg=f"{name} after {iteration}")
    assert seen == {1: 60, 3: 40}


def test_batchnorm_correction_ends_once_initial_values_are_gone() -> None:
    net = network()
    correction = StatisticsCorrection(net)
    correction.before_forward(250)
    before = statistics(net)
    net(batches(1)[0])
    updated = statistics(net)
    correction.after_backward()
    assert all(map(torch.equal, statistics(net), updated))
    assert not any(map(torch.equal, before, updated))


def test_resumed_correction_continues_bit_for_bit() -> None:
    full, half = network(), network()
    run(full, count=20)
    run(half, count=10)
    resumed = network(seed=5)
    correction = StatisticsCorrection(resumed)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for iteration, images in enumerate(batches(20)[10:], 10):
        correction.before_forward(iteration)
        resumed(images)
        correction.after_backward()
    assert all(map(torch.equal, statistics(resumed), statistics(full)))


@pytest.mark.parametrize("kind", ["parent's", "cumulative", "untracked", "frozen"])
def test_other_batchnorm_statistics_are_not_corrected(kind: str) -> None:
    net = network(None if kind == "cumulative" else 0.1)
    if kind == "parent's":
        net(batches(1)[0])
    if kind == "untracked":
        net[1] = nn.BatchNorm2d(4, track_running_stats=False)
    if kind == "frozen":
        net[1].eval()
    plain = copy.deepcopy(net)
    run(net, count=5)
    for images in batches(5):
        plain(images)
    for (name, corrected), expected in zip(net.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(corrected, expected, rtol=0, atol=0, msg=name)
