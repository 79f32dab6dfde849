"""The sampler divides all epochs into batches without skipping a sample, and resumes at any position."""

import pytest
import torch
from torch import Tensor

from retrain.recipe.sampling import draw_epoch
from retrain.training.loaders import EpochSampler
from retrain.training.seeds import make_generator

CPU = torch.device("cpu")


def make_sampler(batch_size: int, probability: Tensor | None = None, seed: int = 0, size: int = 50) -> EpochSampler:
    return EpochSampler(probability, size, batch_size, seed, CPU)


def naive_stream(probability: Tensor | None, length: int, seed: int = 0, size: int = 50) -> list[int]:
    """Return the first `length` samples of all epochs, in order."""
    stream: list[int] = []
    number = 0
    while len(stream) < length:
        stream += draw_epoch(probability, size, make_generator(seed, "pass", number)).tolist()
        number += 1
    return stream[:length]


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 64, 130])
@pytest.mark.parametrize("thinned", [False, True])
def test_batches_are_consecutive_slices_of_the_epochs(batch_size: int, thinned: bool) -> None:
    probability = torch.where(torch.arange(50) < 20, 0.1, 1.0) if thinned else None
    source = make_sampler(batch_size, probability)
    batches = [source.next() for _ in range(12)]
    assert {len(batch) for batch in batches} == {batch_size}
    assert torch.cat(batches).tolist() == naive_stream(probability, 12 * batch_size)


def test_epoch_contains_every_sample_once() -> None:
    source = make_sampler(10)
    for _ in range(3):
        assert torch.cat([source.next() for _ in range(5)]).sort().values.tolist() == list(range(50))


@pytest.mark.parametrize("batch_size", [7, 25, 130])
def test_sampler_resumes_at_a_recorded_position(batch_size: int) -> None:
    source, places, batches = make_sampler(batch_size), [], []
    for _ in range(10):
        places.append((source.number, source.offset))
        batches.append(source.next())
    for k in (8, 3, 0, 5):
        source.seek(*places[k])
        assert torch.equal(source.next(), batches[k])
        assert torch.equal(source.next(), batches[k + 1])


def test_seed_decides_the_order_of_samples() -> None:
    assert torch.equal(make_sampler(50).next(), make_sampler(50).next())
    assert not torch.equal(make_sampler(50).next(), make_sampler(50, seed=1).next())


def test_small_epochs_are_joined_to_fill_a_batch() -> None:
    source = make_sampler(8, torch.full((50,), 0.01))
    assert len(source.next()) == 8
    assert source.number > 3
