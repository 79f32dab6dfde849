"""The paired comparison's interval has the stated coverage, and its counts equal the counts of a simple loop."""

import numpy as np
import pytest
import torch

from retrain.pipeline.gate import compare, paired_difference

SEED = 20260102


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("both", "better", "worse"), [(0.8, 0.06, 0.04), (0.9, 0.02, 0.02), (0.5, 0.2, 0.1)])
@pytest.mark.parametrize("samples", [100, 1000])
def test_interval_covers_the_truth_at_its_confidence(
    confidence: float, both: float, better: float, worse: float, samples: int
) -> None:
    cells = [both, better, worse, 1 - both - better - worse]
    draws = np.random.default_rng(SEED).multinomial(samples, cells, size=4000)
    hits = [
        interval.low <= better - worse <= interval.high
        for interval in (paired_difference(int(b), int(c), samples, confidence) for _, b, c, _ in draws)
    ]
    assert np.mean(hits) > confidence - 0.015
    if samples == 1000:  # with few disagreements, the interval is wider than necessary
        assert np.mean(hits) < confidence + 0.015


def test_interval_equals_walds_with_half_a_sample_per_cell() -> None:
    interval = paired_difference(better=12, worse=5, samples=200, confidence=0.95)
    signs = np.array([1.0] * 12 + [-1.0] * 5 + [0.0] * 183)
    assert interval.value == pytest.approx(signs.mean())
    weights = np.array([12.5, 5.5, 184.0]) / 202
    mean = weights @ [1, -1, 0]
    error = ((weights @ [1, 1, 0] - mean**2) / 202) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((mean - 1.959964 * error, mean + 1.959964 * error))


def test_interval_has_width_without_disagreement() -> None:
    small, large = (paired_difference(0, 0, samples, 0.95) for samples in (20, 2000))
    assert small.low < large.low < 0 < large.high < small.high
    assert small.low == pytest.approx(-small.high)


def test_interval_stays_within_minus_1_and_1() -> None:
    assert paired_difference(3, 0, 3, 0.999).high == 1
    assert paired_difference(0, 3, 3, 0.999).low == -1


def test_flips_and_accuracies_match_a_naive_count() -> None:
    generator = torch.Generator().manual_seed(0)
    champion, candidate = torch.rand(500, generator=generator) < 0.8, torch.rand(500, generator=generator) < 0.7
    comparison = compare("scratch-0", champion, candidate, 0.9)
    pairs = list(zip(champion.tolist(), candidate.tolist(), strict=True))
    assert comparison.negative_flips == sum(1 for was, now in pairs if was and not now) / 500
    assert comparison.champion_accuracy == sum(was for was, _ in pairs) / 500
    assert comparison.difference.value == pytest.approx(sum(now - was for was, now in pairs) / 500)
    assert comparison.difference.low < comparison.difference.value < comparison.difference.high
    assert comparison.champion == "scratch-0"
