"""Learning-speed counters equal the results of loops over samples, and take 8 bytes a sample when stored."""

import math
import random

import safetensors.torch
import torch

from retrain.recipe.learning_speed import (
    Counters,
    add_decayed,
    concatenate,
    difficulty,
    from_tensors,
    joint_shares,
    learning_speed,
    mean_loss,
    split,
    to_tensors,
)

Batch = tuple[list[int], list[bool], list[float]]


def batches(n: int, count: int, seed: int) -> list[Batch]:
    """Return random batches with repeated indices. Losses are multiples of 1/64: their float sums are exact."""
    rng = random.Random(seed)
    return [
        (
            [rng.randrange(n) for _ in range(16)],
            [rng.random() < 0.6 for _ in range(16)],
            [rng.randrange(256) / 64 for _ in range(16)],
        )
        for _ in range(count)
    ]


def counted(n: int, observed: list[Batch]) -> Counters:
    counters = Counters.zeros(n)
    for indices, correct, loss in observed:
        counters.count(torch.tensor(indices), torch.tensor(correct), torch.tensor(loss))
    return counters


def columns(counters: Counters) -> list[list[float]]:
    return [counters.seen.tolist(), counters.correct.tolist(), counters.loss.tolist()]


def test_counts_of_repeated_indices_equal_a_loop() -> None:
    observed = batches(10, 20, seed=0)
    assert any(len(set(indices)) < len(indices) for indices, _, _ in observed)
    expected = [[0.0] * 10 for _ in range(3)]
    for batch in observed:
        for index, correct, loss in zip(*batch, strict=True):
            expected[0][index] += 1
            expected[1][index] += correct
            expected[2][index] += loss
    assert columns(counted(10, observed)) == expected


def test_learning_speed_is_the_share_of_correct_epochs() -> None:
    history = {0: [True, True, False, True], 1: [False, False, False, False], 2: [True] * 4}
    counters = Counters.zeros(4)
    for epoch in range(4):
        for sample, outcomes in history.items():
            counters.count(torch.tensor([sample]), torch.tensor([outcomes[epoch]]), torch.tensor([0.5 * epoch]))
    assert learning_speed(counters)[:3].tolist() == [0.75, 0.0, 1.0]
    assert mean_loss(counters)[:3].tolist() == [0.75] * 3
    assert math.isnan(learning_speed(counters)[3])
    assert math.isnan(mean_loss(counters)[3])


def test_difficulty_orders_by_falling_speed_then_rising_loss() -> None:
    drawn = torch.Generator().manual_seed(0)
    seen = torch.randint(1, 9, (500,), generator=drawn)
    correct = (seen * torch.rand(500, generator=drawn)).round()
    counters = Counters(seen.short(), correct.short(), torch.randint(0, 40, (500,), generator=drawn) / 4)
    by_hand = sorted(range(500), key=lambda k: (-(correct[k] / seen[k]).item(), (counters.loss[k] / seen[k]).item(), k))
    assert difficulty(counters).argsort(stable=True).tolist() == by_hand


def test_difficulty_accepts_infinite_losses() -> None:
    counters = Counters(torch.ones(3), torch.ones(3), torch.tensor([1.0, math.inf, -0.0]))
    assert difficulty(counters).argsort().tolist() == [2, 0, 1]


def test_counters_add_losses_without_a_gradient_graph() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    counters = Counters.zeros(6)
    counters.count(torch.arange(6), logits.argmax(1) == labels, loss)
    assert torch.equal(counters.loss, loss.detach())
    assert not counters.loss.requires_grad


def test_losses_in_half_precision_are_summed_in_float32() -> None:
    counters = Counters.zeros(1)
    for _ in range(1000):
        counters.count(torch.tensor([0]), torch.tensor([True]), torch.tensor([1.0], dtype=torch.bfloat16))
    assert counters.loss.item() == 1000


def test_parents_counts_are_added_with_decay() -> None:
    parent, own = counted(10, batches(10, 20, seed=2)), counted(10, batches(10, 3, seed=3))
    expected = [
        [0.5 * old + new for old, new in zip(*pair, strict=True)]
        for pair in zip(columns(parent), columns(own), strict=True)
    ]
    assert columns(add_decayed(parent, own, 0.5)) == expected
    assert columns(add_decayed(parent, own, 0.0)) == columns(own)


def test_splitting_undoes_concatenation() -> None:
    parts = [counted(n, batches(n, 4, seed=n)) for n in (3, 1, 7)]
    whole = concatenate(parts)
    assert len(whole.seen) == 11
    assert [columns(part) for part in split(whole, [3, 1, 7])] == [columns(part) for part in parts]


def test_stored_counts_take_8_bytes_a_sample_and_load_exactly() -> None:
    seen = torch.arange(2049.0)
    counters = Counters(seen, (seen * 0.7).floor(), seen * 0.3)
    payload = safetensors.torch.save(to_tensors(counters))
    assert 8 * 2049 <= len(payload) < 8 * 2049 + 512
    assert columns(from_tensors(safetensors.torch.load(payload))) == columns(counters)


def test_counts_beyond_the_limit_keep_speed_and_mean_loss() -> None:
    seen = torch.tensor([2049.0, 5000.0, 1e6, 1e7])
    counters = Counters(seen, seen * torch.tensor([1.0, 0.33, 0.0, 0.75]), seen * 0.3)
    stored = from_tensors(to_tensors(counters))
    assert stored.seen.tolist() == [2048] * 4
    torch.testing.assert_close(learning_speed(stored), learning_speed(counters), rtol=2**-11, atol=0)
    torch.testing.assert_close(mean_loss(stored), mean_loss(counters), rtol=1e-6, atol=0)


def test_decayed_counts_are_stored_within_a_2048th() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = 300 * torch.rand(10_000, generator=generator) + 0.01
    correct = seen * torch.rand(10_000, generator=generator).clamp(min=0.5).round(decimals=1)
    stored = from_tensors(to_tensors(Counters(seen, correct, seen)))
    torch.testing.assert_close(stored.seen.float(), seen, rtol=2**-11, atol=0)
    assert (learning_speed(stored) <= 1).all()


def test_joint_shares_equal_counting_pair_by_pair() -> None:
    before = torch.tensor([0.0, 0.1, 0.5, 1.0, torch.nan, 0.9])
    after = torch.tensor([0.0, 0.6, 0.5, 1.0, 0.5, torch.nan])
    expected = torch.zeros(4, 4)
    for one, other in zip(before.tolist()[:4], after.tolist()[:4], strict=True):
        expected[min(int(one * 4), 3), min(int(other * 4), 3)] += 1 / 4
    assert torch.equal(joint_shares(before, after, 4), expected)
