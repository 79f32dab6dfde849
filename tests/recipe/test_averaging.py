"""The averaged network equals a weighted sum of all earlier weights, written out by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn

from retrain.config.task import AutoAverage, Averaging, ExponentialAverage, NoAverage, PowerAverage
from retrain.recipe.averaging import AveragedNetwork, share_of_newest

KINDS = [PowerAverage(), PowerAverage(gamma=2), ExponentialAverage(decay=0.8)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def weights_of_power(gamma: float, count: int) -> list[float]:
    """Return the share of each update's weights, oldest first, by the recursion of Karras et al."""
    shares: list[float] = []
    for t in range(1, count + 1):
        kept = (1 - 1 / t) ** (gamma + 1)
        shares = [kept * share for share in shares] + [1 - kept]
    return shares


def weights_of_ema(decay: float, count: int) -> list[float]:
    """Return the share of each update's weights, oldest first: powers of the decay, divided by their sum."""
    powers = [decay ** (count - t) for t in range(1, count + 1)]
    return [power / sum(powers) for power in powers]


def expected_shares(setting: Averaging, count: int) -> list[float]:
    if isinstance(setting, PowerAverage):
        return weights_of_power(setting.gamma, count)
    assert isinstance(setting, ExponentialAverage)
    return weights_of_ema(setting.decay, count)


def change_at_random(net: nn.Module) -> dict[str, Tensor]:
    """Change weights and statistics at random, and return a copy of the state."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
        net(torch.randn(8, 3, 4, 4))
    return copy.deepcopy(net.state_dict())


@pytest.mark.parametrize("setting", KINDS, ids=str)
def test_average_equals_weighted_sum_of_all_weights(setting: Averaging) -> None:
    net = network()
    average = AveragedNetwork(setting, net)
    states = []
    for count in range(1, 13):
        states.append(change_at_random(net))
        average.add(average.share(count))
    shares = expected_shares(setting, 12)
    assert sum(shares) == pytest.approx(1)
    for name, tensor in average.network().state_dict().items():
        if tensor.is_floating_point():
            total = sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
            torch.testing.assert_close(tensor.double(), total, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, states[-1][name]), name


@pytest.mark.parametrize("setting", KINDS, ids=str)
def test_first_update_copies_the_weights(setting: Averaging) -> None:
    net = network()
    average = AveragedNetwork(setting, net)
    state = change_at_random(net)
    average.add(average.share(1))
    assert all(torch.equal(tensor, state[name]) for name, tensor in average.network().state_dict().items())
    assert share_of_newest(setting, 1) == 1.0


def test_average_is_another_network_that_is_not_trained() -> None:
    net = network()
    average = AveragedNetwork(PowerAverage(), net).network()
    assert average is not net
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_averaging_none_returns_the_trained_network() -> None:
    assert share_of_newest(NoAverage(), 3) == 1.0
    net = network()
    average = AveragedNetwork(NoAverage(), net)
    before = change_at_random(net)
    average.add(average.share(1))
    assert average.network() is net
    assert average.tensors() == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_power_averages_window_grows_with_the_run() -> None:
    """Check that the mean age of the weights is t / (gamma + 2) iterations."""
    for count in (50, 500):
        shares = weights_of_power(7, count)
        age = sum(share * (count - 1 - t) for t, share in enumerate(shares))
        assert age / count == pytest.approx(1 / 9, rel=0.1)


def test_unresolved_averaging_is_refused() -> None:
    with pytest.raises(ValueError, match="averaging is still auto"):
        AveragedNetwork(AutoAverage(), network())


@pytest.mark.parametrize("setting", KINDS)
def test_buffers_with_infinite_values_are_copied(setting: Averaging) -> None:
    net = network()
    net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    average = AveragedNetwork(setting, net)
    for count in (1, 2):
        average.add(average.share(count))
    assert average.network().mask.tolist() == [0.0, float("-inf")]


@pytest.mark.parametrize("setting", [*KINDS, NoAverage()], ids=str)
def test_buffers_that_a_forward_pass_replaces_are_copied(setting: Averaging) -> None:
    net = network()
    net.register_buffer("passes", torch.zeros(()))
    average = AveragedNetwork(setting, net)
    for count in (1, 2):
        net.passes = torch.tensor(float(count))
        average.add(average.share(count))
    assert average.network().passes == 2
