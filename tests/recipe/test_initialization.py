"""Initializations of a run from its parent: warm start, shrink and perturb, noise, and fresh weights."""

import copy

import pytest
import torch
from torch import Tensor, nn

from retrain.config.recipe import Fresh, GaussianNoise, ShrinkPerturb, Warm
from retrain.errors import ModelError
from retrain.recipe.initialization import initialize, shrink_factor, shrink_perturb, warm_start


def network(classes: int, seed: int, width: int = 4) -> nn.Sequential:
    """Return a small convolutional net with BatchNorm. Its running statistics differ from their initial values."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, classes))
    for _ in range(seed):
        net(torch.randn(8, 3, 4, 4))
    return net


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(net.state_dict())


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name]), name


def test_warm_start_is_the_parent_bit_for_bit() -> None:
    parent, fresh = network(5, seed=3), network(5, seed=1)
    warm_start(fresh, parent.state_dict())
    assert_equal(fresh.state_dict(), parent.state_dict())
    assert fresh.state_dict()["1.num_batches_tracked"] == 3


def test_warm_start_copies_the_parents_tensors() -> None:
    parent, fresh = network(5, seed=3), network(5, seed=1)
    before = snapshot(parent)
    warm_start(fresh, parent.state_dict())
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    assert_equal(snapshot(parent), before)


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.001), (1.0, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_shrink_perturb_equals_equation_4_element_by_element(alpha: float, beta: float) -> None:
    parent, fresh = network(5, seed=3), network(5, seed=1)
    start = snapshot(fresh)
    shrink_perturb(fresh, parent.state_dict(), ShrinkPerturb(alpha=alpha, beta=beta))
    for name, parameter in fresh.named_parameters():
        pairs = zip(parent.state_dict()[name].flatten().tolist(), start[name].flatten().tolist(), strict=True)
        expected = [alpha * old + beta * new for old, new in pairs]
        torch.testing.assert_close(parameter.flatten(), torch.tensor(expected), rtol=1e-6, atol=1e-8)


def parameter_norm(net: nn.Module) -> float:
    return float(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).norm())


def test_repeated_shrinking_stops_at_the_least_norm() -> None:
    """Check that a parent is shrunk to 0.4 of its norm once, and not further in later runs."""
    setting = ShrinkPerturb(alpha=0.4, beta=0.0, least_norm=0.4)
    parent = network(5, seed=3)
    norm = parameter_norm(parent)
    for _ in range(4):
        start = network(5, seed=3)
        shrink_perturb(start, parent.state_dict(), setting)
        assert parameter_norm(start) == pytest.approx(0.4 * norm)
        parent = start


def test_shrinking_never_enlarges_a_parent() -> None:
    parent, start = network(5, seed=3), network(5, seed=3)
    with torch.no_grad():
        for parameter in parent.parameters():
            parameter.mul_(0.1)
    shrink_perturb(start, parent.state_dict(), ShrinkPerturb(alpha=0.1, beta=0.0, least_norm=0.4))
    for own, old in zip(start.parameters(), parent.parameters(), strict=True):
        torch.testing.assert_close(own, old)


@torch.no_grad()
def test_parent_of_zeros_is_shrunk_by_alpha() -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in network(5, seed=3).state_dict().items()}
    assert shrink_factor(network(5, seed=3), zeros, ShrinkPerturb(alpha=0.4)) == 0.4


def test_shrink_perturb_leaves_buffers_fresh() -> None:
    parent, fresh = network(5, seed=3), network(5, seed=1)
    start = snapshot(fresh)
    shrink_perturb(fresh, parent.state_dict(), ShrinkPerturb())
    for name, buffer in fresh.named_buffers():
        assert torch.equal(buffer, start[name]), name
        assert not torch.equal(buffer, parent.state_dict()[name]), name


def test_shrink_perturb_can_keep_buffers_and_perturb_new_rows() -> None:
    parent, fresh = network(5, seed=3).state_dict(), network(8, seed=1)
    start = snapshot(fresh)
    shrink_perturb(fresh, parent, ShrinkPerturb(buffers="old", new_rows="perturbed"))
    for name, buffer in fresh.named_buffers():
        assert torch.equal(buffer, parent[name]), name
    torch.testing.assert_close(fresh.state_dict()["3.weight"][5:], 0.001 * start["3.weight"][5:])
    torch.testing.assert_close(fresh.state_dict()["3.bias"][:5], 0.4 * parent["3.bias"] + 0.001 * start["3.bias"][:5])


def test_frozen_parameters_are_not_shrunk() -> None:
    """A network whose frozen convolution has a far larger norm is shrunk as if it had only the other layers."""
    parent, fresh = network(5, seed=3), network(5, seed=1)
    setting = ShrinkPerturb(alpha=0.4, beta=0.001, least_norm=0.4)
    shrunk = network(5, seed=1)
    shrink_perturb(shrunk[3], parent[3].state_dict(), setting)
    with torch.no_grad():
        parent[0].weight.mul_(100)
    for frozen in (fresh[0], fresh[1]):
        frozen.requires_grad_(False)
    shrink_perturb(fresh, parent.state_dict(), setting)
    assert_equal(fresh[0].state_dict(), parent[0].state_dict())
    assert_equal(fresh[3].state_dict(), shrunk[3].state_dict())


def test_buffer_that_is_not_stored_stays_fresh() -> None:
    parent, fresh = network(5, seed=3), network(5, seed=1)
    for number, each in enumerate((parent, fresh)):
        each.register_buffer("mask", torch.full((2,), float(number)), persistent=False)
    shrink_perturb(fresh, parent.state_dict(), ShrinkPerturb(buffers="old"))
    assert fresh.get_buffer("mask").tolist() == [1, 1]
    assert torch.equal(fresh[1].running_mean, parent[1].running_mean)


def test_unseen_classes_keep_their_fresh_initialization() -> None:
    parent = network(5, seed=3).state_dict()
    for initialization, old_weight, fresh_weight in [(Warm(), 1.0, 0.0), (ShrinkPerturb(), 0.4, 0.001)]:
        fresh = network(8, seed=1)
        start = snapshot(fresh)
        initialize(initialization, fresh, parent)
        for name in ("3.weight", "3.bias"):
            head = fresh.state_dict()[name]
            assert torch.equal(head[5:], start[name][5:])
            torch.testing.assert_close(head[:5], old_weight * parent[name] + fresh_weight * start[name][:5])


def test_tied_parameter_is_shrunk_once() -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        net[1].weight = net[0].weight
        return net

    parent, fresh = tied(1), tied(2)
    expected = 0.4 * parent.state_dict()["0.weight"] + 0.001 * snapshot(fresh)["0.weight"]
    shrink_perturb(fresh, parent.state_dict(), ShrinkPerturb())
    torch.testing.assert_close(fresh.state_dict()["1.weight"], expected)


def test_fresh_ignores_the_parent() -> None:
    fresh = network(5, seed=1)
    start = snapshot(fresh)
    initialize(Fresh(), fresh, network(5, seed=3).state_dict())
    initialize(Fresh(), fresh, None)
    assert_equal(fresh.state_dict(), start)


@pytest.mark.parametrize("setting", [Warm(), ShrinkPerturb()])
def test_initialization_without_its_parent_is_refused(setting: Warm | ShrinkPerturb) -> None:
    with pytest.raises(ModelError, match=rf"'{setting.name}' needs a parent's weights .* use 'fresh'"):
        initialize(setting, network(5, seed=1), None)


@pytest.mark.parametrize("setting", [Warm(), ShrinkPerturb()])
@pytest.mark.parametrize(
    ("parent", "message"),
    [
        (network(9, seed=3), r"at 3\.weight: shape \[9, 16\] in the parent, shape \[5, 16\] in the network"),
        (network(5, seed=3, width=2), r"at 3\.weight: shape \[5, 8\] in the parent, shape \[5, 16\] in the network"),
        (network(5, seed=3)[:3], r"at 3\.weight: missing in the parent, shape \[5, 16\] in the network"),
        (
            nn.Sequential(*network(5, seed=3), nn.Linear(5, 2)),
            r"at 4\.weight: shape \[2, 5\] in the parent, missing in the network",
        ),
    ],
)
def test_misfit_weights_are_refused_by_name_and_shape(
    setting: Warm | ShrinkPerturb, parent: nn.Module, message: str
) -> None:
    fresh = network(5, seed=1)
    start = snapshot(fresh)
    with pytest.raises(ModelError, match=message):
        initialize(setting, fresh, parent.state_dict())
    assert_equal(fresh.state_dict(), start)


@pytest.mark.parametrize("setting", [Warm(), ShrinkPerturb()])
def test_scalar_parameter_does_not_grow_rows(setting: Warm | ShrinkPerturb) -> None:
    fresh = nn.ParameterDict({"scale": nn.Parameter(torch.ones(3))})
    with pytest.raises(ModelError, match=r"at scale: shape \[\] in the parent, shape \[3\] in the network"):
        initialize(setting, fresh, {"scale": torch.tensor(2.0)})


def test_noise_has_the_set_deviation_and_spares_buffers() -> None:
    """Ash & Adams (section 3.7) add Gaussian noise of this standard deviation to the parent's parameters."""
    torch.manual_seed(0)
    old = nn.Sequential(nn.Linear(60, 80), nn.BatchNorm1d(80), nn.Linear(80, 3))
    old[1].running_mean.fill_(2.0)
    fresh = nn.Sequential(nn.Linear(60, 80), nn.BatchNorm1d(80), nn.Linear(80, 5))
    new_rows = fresh[2].weight[3:].clone()
    generator = torch.Generator().manual_seed(1)
    initialize(GaussianNoise(deviation=0.01), fresh, old.state_dict(), generator=generator)
    added = (fresh[0].weight - old[0].weight, fresh[2].weight[:3] - old[2].weight)
    noise = torch.cat([each.detach().flatten() for each in added])
    assert float(noise.mean()) == pytest.approx(0, abs=5e-4)
    assert float(noise.std()) == pytest.approx(0.01, rel=0.05)
    assert float((noise / 0.01).pow(4).mean()) == pytest.approx(3, rel=0.2)  # kurtosis of a normal distribution
    assert torch.equal(fresh[2].weight[3:], new_rows)
    assert torch.equal(fresh[1].running_mean, old[1].running_mean)


def test_fresh_network_is_scaled_by_its_setting() -> None:
    plain, scaled = nn.Linear(4, 3), nn.Linear(4, 3)
    scaled.load_state_dict(plain.state_dict())
    initialize(Fresh(scale=0.4), scaled, None)
    torch.testing.assert_close(scaled.weight, 0.4 * plain.weight)
    torch.testing.assert_close(scaled.bias, 0.4 * plain.bias)
