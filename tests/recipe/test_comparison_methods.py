"""The papers' comparison methods equal reference implementations in this file."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain.config.optimizers import Adam
from retrain.config.recipe import Adversarial, ConfidencePenalty, Ewc, NoPenalty
from retrain.recipe.analysis import (
    GRADIENT_CHUNK,
    fisher_diagonal,
    gradient_norms,
    margins,
    rank_correlation,
    smallest_margins,
    weight_correlation,
)
from retrain.recipe.initialization import body_parameters, zero_gradients
from retrain.recipe.objective import add_ewc_gradient, adversarial, batch_loss, confidence_penalty, fgsm, gradient_term
from retrain.training import optimizers


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5)
    ).double()


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    return images, torch.arange(size) % 5


def single_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> Iterator[list[Tensor]]:
    """Yield the gradient of each sample's loss, one backward pass after another."""
    net.eval()
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(net(image[None]), label[None])
        yield list(torch.autograd.grad(loss, list(net.parameters())))


def test_confidence_penalty_subtracts_the_mean_entropy() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]]).double()
    entropy = 0.0
    for row in logits.tolist():
        weights = [2.718281828459045**value for value in row]
        shares = [weight / sum(weights) for weight in weights]
        entropy -= sum(share * float(torch.tensor(share).double().log()) for share in shares) / 2
    penalised = confidence_penalty(logits, torch.tensor(1.5).double(), 0.25)
    assert penalised.item() == pytest.approx(1.5 - 0.25 * entropy, rel=1e-7)


def test_confidence_penalty_reduces_overconfident_logits() -> None:
    logits = torch.tensor([[5.0, 0.0]], requires_grad=True)
    confidence_penalty(logits, logits.sum() * 0, 1.0).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]


def test_fgsm_moves_every_pixel_by_epsilon_and_raises_the_loss() -> None:
    net, (images, labels) = network().eval(), batch()
    moved = fgsm(net, images, labels, 0.01)
    assert all(parameter.grad is None for parameter in net.parameters()), "only the images need a gradient"
    before = images.clone().requires_grad_()
    loss = functional.cross_entropy(net(before), labels)
    loss.backward()
    assert before.grad is not None
    torch.testing.assert_close(moved, images + 0.01 * before.grad.sign())
    assert functional.cross_entropy(net(moved), labels) > loss
    assert not moved.requires_grad


def test_adversarial_training_averages_both_losses() -> None:
    net, (images, labels) = network().eval(), batch()
    loss = functional.cross_entropy(net(images), labels)
    both = adversarial(net, images, labels, loss, 0.1)
    other = functional.cross_entropy(net(fgsm(net, images, labels, 0.1)), labels)
    torch.testing.assert_close(both, (loss + other) / 2)


def test_batch_loss_applies_the_configured_objective() -> None:
    net, (images, labels) = network().eval(), batch()
    logits = net(images)
    loss = functional.cross_entropy(logits, labels)
    same, surer, harder = (
        batch_loss(setting, net)(images, labels, logits, loss)
        for setting in (NoPenalty(), ConfidencePenalty(), Adversarial())
    )
    assert same is loss
    assert surer < loss < harder


def test_fisher_diagonal_is_the_mean_squared_sample_gradient() -> None:
    net, (images, labels) = network(), batch(GRADIENT_CHUNK + 6)
    expected = [torch.zeros_like(parameter) for parameter in net.parameters()]
    for gradients in single_gradients(net, images, labels):
        for total, gradient in zip(expected, gradients, strict=True):
            total += gradient**2 / len(labels)
    net.train()
    buffers = [buffer.clone() for buffer in net.buffers()]
    fisher = fisher_diagonal(net, images, labels)
    assert list(fisher) == [name for name, _ in net.named_parameters()]
    torch.testing.assert_close(list(fisher.values()), expected)
    assert net.training
    assert all(map(torch.equal, net.buffers(), buffers))


def test_gradient_norms_match_single_samples() -> None:
    net, (images, labels) = network(), batch()
    expected = [sum(float((g**2).sum()) for g in each) ** 0.5 for each in single_gradients(net, images, labels)]
    assert gradient_norms(net, images, labels).tolist() == pytest.approx(expected)


def test_gradient_of_ewc_equals_autograd_of_its_term() -> None:
    net = network()
    parameters = list(net.parameters())
    anchor = [torch.randn_like(parameter) for parameter in parameters]
    fisher = [torch.rand_like(parameter) for parameter in parameters]
    term = sum((f * (p - a) ** 2).sum() for p, a, f in zip(parameters, anchor, fisher, strict=True))
    expected = torch.autograd.grad(3.0 / 2 * term, parameters)
    add_ewc_gradient(parameters, anchor, fisher, 3.0)
    torch.testing.assert_close([parameter.grad for parameter in parameters], list(expected))
    net.zero_grad()
    gradient_term(Ewc(strength=3.0), parameters, anchor, fisher)()
    torch.testing.assert_close([parameter.grad for parameter in parameters], list(expected))


def test_ewc_without_fisher_information_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    for anchor, fisher in (([parameter], None), (None, [parameter]), (None, None)):
        with pytest.raises(ValueError, match="ewc needs an anchor and the Fisher information"):
            gradient_term(Ewc(), [parameter], anchor, fisher)


def test_only_the_last_layer_changes_while_the_body_is_frozen() -> None:
    net, (images, labels) = network(), batch()
    held = body_parameters(net)
    assert len(held) == len(list(net.parameters())) - 2
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        zero_gradients(held)
        optimizer.step()
    moved = [name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])]
    assert moved == ["6.weight", "6.bias"]


def test_network_without_a_body_needs_no_zero_gradients() -> None:
    net = nn.Linear(2, 2)
    net(torch.ones(1, 2)).sum().backward()
    zero_gradients(body_parameters(net))
    assert net.weight.grad.tolist() == [[1, 1], [1, 1]]


def test_margins_are_between_the_two_likeliest_classes() -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8], [0.2, 0.4, 0.4]])
    assert margins(shares.log()).tolist() == pytest.approx([0.5, 0.05, 0.7, 0.0], abs=1e-6)
    assert smallest_margins(shares.log(), 2).tolist() == [3, 1]


def test_weight_correlation_is_pearsons_over_all_weights() -> None:
    initial = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5])]
    assert weight_correlation(initial, [2 * each for each in initial]) == pytest.approx(1.0)
    x, y = [1.0, 2.0, 3.0, 4.0, 0.5], [1.0, 0.0, 3.0, 1.0, 2.0]
    mean_x, mean_y = sum(x) / 5, sum(y) / 5
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    norm = (sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)) ** 0.5
    other = [torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([2.0])]
    assert weight_correlation(initial, other) == pytest.approx(covariance / norm)


def test_loaded_moments_are_zero_for_new_rows() -> None:
    small, grown = nn.Linear(3, 2), nn.Linear(3, 4)
    first = optimizers.build_optimizer(Adam(), small.parameters())
    small(torch.ones(1, 3)).sum().backward()
    first.step()
    second = optimizers.build_optimizer(Adam(), grown.parameters())
    weights = grown.weight.detach().clone()
    optimizers.load_moments(second, optimizers.moments(first))
    torch.testing.assert_close(second.columns["exp_avg"][0], torch.tensor([[0.1] * 3, [0.1] * 3, [0.0] * 3, [0.0] * 3]))
    assert second.columns["step"][0].item() == 1
    assert torch.equal(grown.weight, weights)


def test_rank_correlation_is_pearsons_of_mean_ranks() -> None:
    one, other = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.0]), torch.tensor([3.0, 1.0, 2.0, 5.0, 2.0])
    ranks = torch.tensor([[2.0, 3.5, 3.5, 5.0, 1.0], [4.0, 1.0, 2.5, 5.0, 2.5]])
    assert rank_correlation(one, other) == pytest.approx(float(torch.corrcoef(ranks)[0, 1]))
    assert rank_correlation(one, one**3) == pytest.approx(1.0)
