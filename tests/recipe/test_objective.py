"""Gradients of the penalties equal autograd's gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from retrain.config.recipe import L2, L2Init, NoPenalty
from retrain.recipe.objective import add_l2_gradient, add_l2_init_gradient, gradient_term


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).double()


def loss_of(net: nn.Module) -> Tensor:
    images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    return nn.functional.cross_entropy(net(images), torch.arange(8) % 5)


def anchor_of(net: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(p.shape, generator=generator).double() for p in net.parameters()]


def gradients(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def autograd_reference(penalty: Callable[[Tensor, Tensor], Tensor], strength: float) -> list[Tensor]:
    """Return the gradients of the sum of loss and penalty, as in the paper."""
    net = network()
    terms = [penalty(p, anchor) for p, anchor in zip(net.parameters(), anchor_of(net), strict=True)]
    (loss_of(net) + strength * torch.stack(terms).sum()).backward()
    return gradients(net)


def squared_norm(parameter: Tensor, _: Tensor) -> Tensor:
    return (parameter**2).sum()


def squared_distance(parameter: Tensor, anchor: Tensor) -> Tensor:
    return ((parameter - anchor) ** 2).sum()


@pytest.mark.parametrize("strength", [0.0, 0.01, 3.0])
def test_l2_gradient_equals_autograd_of_the_term(strength: float) -> None:
    net = network()
    loss_of(net).backward()
    add_l2_gradient(list(net.parameters()), strength)
    torch.testing.assert_close(gradients(net), autograd_reference(squared_norm, strength), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("strength", [0.0, 0.01, 3.0])
def test_l2_init_gradient_equals_autograd_of_equation_5(strength: float) -> None:
    net = network()
    loss_of(net).backward()
    add_l2_init_gradient(list(net.parameters()), anchor_of(net), strength)
    torch.testing.assert_close(gradients(net), autograd_reference(squared_distance, strength), rtol=1e-14, atol=1e-16)


def test_l2_init_changes_only_gradients_in_place() -> None:
    net = network()
    loss_of(net).backward()
    parameters, anchor = list(net.parameters()), anchor_of(net)
    addresses = [p.grad.data_ptr() for p in parameters if p.grad is not None]
    before = [p.detach().clone() for p in parameters], [a.clone() for a in anchor]
    add_l2_init_gradient(parameters, anchor, 0.01)
    assert [p.grad.data_ptr() for p in parameters if p.grad is not None] == addresses
    assert all(map(torch.equal, parameters, before[0]))
    assert all(map(torch.equal, anchor, before[1]))


def test_l2_init_also_pulls_parameters_without_gradients() -> None:
    unused = nn.Parameter(torch.tensor([2.0, -1.0]))
    add_l2_init_gradient([unused], [torch.tensor([1.0, 1.0])], 0.25)
    assert unused.grad is not None
    assert unused.grad.tolist() == [0.5, -1.0]


def test_penalty_is_part_of_the_gradient_that_adam_sees() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    term = gradient_term(L2(strength=0.5), [parameter], None)
    parameter.grad = torch.tensor([1.0])
    term()
    optimizer.step()
    assert optimizer.state[parameter]["exp_avg"].item() == pytest.approx(0.1 * (1 + 2 * 0.5 * 1))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(NoPenalty(), 1.0), (L2(strength=0.1), 1 + 0.2 * 3), (L2Init(strength=0.1), 1 + 0.2 * (3 - 5))],
)
def test_objective_setting_selects_the_penalty(setting: NoPenalty | L2 | L2Init, expected: float) -> None:
    parameter = nn.Parameter(torch.tensor([3.0]))
    parameter.grad = torch.tensor([1.0])
    gradient_term(setting, [parameter], [torch.tensor([5.0])])()
    assert parameter.grad.item() == pytest.approx(expected)


def test_l2_init_without_an_anchor_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an anchor"):
        gradient_term(L2Init(), [nn.Parameter(torch.zeros(1))], None)
