"""Scores equal scikit-learn's scores, and their standard errors agree with resampling."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, top_k_accuracy_score
from support.trainings import SIZE, TASK, dropout_net, samples
from torch import Tensor

from retrain.config import Metric
from retrain.data.augment import Normalize
from retrain.pipeline.gate import score_difference
from retrain.training.evaluation import measure, measure_score
from retrain.training.groups import Groups
from retrain.training.scores import TOP, Predictions, compute_score

METRICS = get_args(Metric)
CLASSES = 8
SHARES = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02])


def drawn(count: int, seed: int, skill: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return labels of classes of different sizes, int64 [N], and logits [N, K] that favour the labels by `skill`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    logits = torch.randn(count, CLASSES, generator=generator)
    logits[torch.arange(count), labels] += skill
    return labels, logits


def predictions_of(labels: Tensor, logits: Tensor) -> Predictions:
    top = logits.topk(TOP).indices
    return Predictions(logits.argmax(1), (top == labels[:, None]).any(1))


def by_scikit_learn(metric: Metric, labels: Tensor, logits: Tensor) -> float:
    true, guess = labels.numpy(), logits.argmax(1).numpy()
    present = np.unique(true)
    scores = {
        "accuracy": lambda: accuracy_score(true, guess),
        "balanced_accuracy": lambda: (np.array([(guess[true == one] == one).mean() for one in present])).mean(),
        "macro_f1": lambda: f1_score(true, guess, average="macro", labels=present),
        "top5_accuracy": lambda: top_k_accuracy_score(true, logits.numpy(), k=TOP, labels=range(CLASSES)),
    }
    if metric == "balanced_accuracy" and set(guess) <= set(present):
        assert scores[metric]() == pytest.approx(balanced_accuracy_score(true, guess))
    return float(scores[metric]())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 40, 1000])
def test_score_equals_scikit_learns(metric: Metric, count: int) -> None:
    labels, logits = drawn(count, seed=count)
    score = compute_score(metric, labels, predictions_of(labels, logits))
    assert score.value == pytest.approx(by_scikit_learn(metric, labels, logits))


@pytest.mark.parametrize("metric", METRICS)
def test_standard_error_agrees_with_the_bootstrap(metric: Metric) -> None:
    labels, logits = drawn(2000, seed=1)
    predictions = predictions_of(labels, logits)
    generator = torch.Generator().manual_seed(2)
    values = []
    for _ in range(400):
        again = torch.randint(2000, (2000,), generator=generator)
        values.append(compute_score(metric, labels[again], predictions.select(again)).value)
    error = compute_score(metric, labels, predictions).standard_error
    assert error == pytest.approx(float(np.std(values)), rel=0.12)


def test_standard_error_of_accuracy_is_binomial() -> None:
    labels, logits = drawn(500, seed=3)
    score = compute_score("accuracy", labels, predictions_of(labels, logits))
    assert score.standard_error == pytest.approx(math.sqrt(score.value * (1 - score.value) / 500))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("count", [150, 600])
def test_difference_interval_has_its_stated_coverage(metric: Metric, count: int) -> None:
    """The interval of the difference between two equally good networks contains 0 in 95% of the test splits."""
    covered = []
    for seed in range(400):
        labels, first_logits = drawn(count, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        other = torch.randn(count, CLASSES, generator=generator)
        other[torch.arange(count), labels] += 1.0
        second_logits = torch.where(torch.rand(count, 1, generator=generator) < 0.5, first_logits, other)
        first, second = (
            compute_score(metric, labels, predictions_of(labels, logits)) for logits in (first_logits, second_logits)
        )
        interval = score_difference(first, second, 0.95)
        covered.append(interval.low <= 0 <= interval.high)
    assert 0.93 <= np.mean(covered) <= 0.995


def test_equal_models_show_no_certain_difference() -> None:
    labels, logits = drawn(50, seed=5)
    score = compute_score("macro_f1", labels, predictions_of(labels, logits))
    interval = score_difference(score, score, 0.95)
    assert interval.low < interval.value == 0 < interval.high


def test_classes_that_a_model_lacks_count_as_wrong() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    predictions = Predictions(torch.tensor([0, -1, 1, -1]), torch.tensor([True, False, True, False]))
    assert compute_score("balanced_accuracy", labels, predictions).value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert compute_score("macro_f1", labels, predictions).value == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_measured_scores_equal_the_plain_evaluation() -> None:
    """Check that both functions measure the same accuracy, over all samples and over the groups."""
    torch.manual_seed(0)
    network, held = dropout_net(CLASSES, SIZE), samples([300], CLASSES)
    scope = held.labels < 4
    newest = torch.arange(300) >= 200
    groups = Groups(scope, 4, newest, int(scope.sum()), int(newest.sum()))
    normalize = Normalize(TASK.data)
    plain = measure(network, held, torch.arange(300), normalize, 0.0, groups=groups)
    scored = measure_score(network, held, "accuracy", normalize, groups=groups)
    assert scored[:2] == pytest.approx(plain[:2])
    assert (scored.images, scored.in_scope, scored.newest) == pytest.approx((300, plain.in_scope, plain.newest))
    assert scored.scope_among_all == pytest.approx(plain.scope_among_all)
    assert plain.scope_among_all is not None
    assert plain.scope_among_all < plain.in_scope
    assert measure_score(network, held, "macro_f1", normalize).in_scope is None
