"""Warm-up, clipping, smoothed labels, class weights and balanced sampling match a script written out by hand."""

import pytest
import torch
from support.trainings import TASK, RecordingObserver, plan_of, run_of
from torch.nn import functional

from retrain.config.optimizers import AdamW
from retrain.config.task import Data, Task, Training
from retrain.data.augment import Normalize
from retrain.recipe.learning_speed import Counters
from retrain.recipe.sampling import balanced_appearances, draw_epoch
from retrain.records import Plan
from retrain.training.loop import run_loop
from retrain.training.loss import class_weights, plain_loss, weighted_loss
from retrain.training.setup import Run

WARMUP, LIMIT, SMOOTHING, WEIGHTS = 4, 0.5, 0.2, {"class-0": 3.0}


def plan_with(**training: object) -> Plan:
    """Return the plan of a scratch run on 160 images without augmentation."""
    task = TASK.model_copy(
        update={
            "data": Data(image_size=8, crop_padding=0, flip=False),
            "training": TASK.training.model_copy(update={"save_seconds": 60, **training}),
        }
    )
    return plan_of(task).model_copy(update={"iterations": 10})


def train(run: Run) -> Run:
    run_loop(run, RecordingObserver(), lambda run: None, lambda: False)
    return run


def by_hand(plan: Plan) -> Run:
    """Train with torch's optimizer, loss and clipping."""
    run = run_of(plan)
    vectors = [each for each in run.network.parameters() if each.ndim == 1]
    matrices = [each for each in run.network.parameters() if each.ndim > 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.3, fused=True)
    labels, normalize = run.train.labels, Normalize(plan.task.data)
    weights = torch.tensor([3.0, 1, 1, 1, 1]) / 1.4  # divided by the mean weight of five equally large classes, 7 / 5
    for iteration in range(plan.iterations):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1, (iteration + 1) / WARMUP) * cosine_factor(iteration, plan.iterations)
        run.statistics.before_forward(iteration)
        chosen = run.loader.sampler.next()
        logits = run.network(normalize(run.train.pixels(chosen)))
        optimizer.zero_grad()
        losses = functional.cross_entropy(logits, labels[chosen], weights, reduction="none", label_smoothing=SMOOTHING)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), LIMIT)
        optimizer.step()
        run.statistics.after_backward()
    return run


def cosine_factor(iteration: int, iterations: int) -> float:
    return float((1 + torch.cos(torch.tensor(torch.pi * iteration / iterations, dtype=torch.float64))) / 2)


def test_training_matches_a_script_with_the_same_settings() -> None:
    plan = plan_with(
        optimizer=AdamW(learning_rate=0.01, weight_decay=0.3),
        warmup=WARMUP,
        clip_norm=LIMIT,
        label_smoothing=SMOOTHING,
        class_weights=WEIGHTS,
    )
    trained, expected = train(run_of(plan)), by_hand(plan)
    for name, tensor in trained.network.state_dict().items():
        torch.testing.assert_close(tensor, expected.network.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", [{"warmup": 9}, {"clip_norm": 0.1}, {"label_smoothing": 0.3}])
def test_each_setting_changes_the_training(setting: dict[str, float]) -> None:
    """A comparison of two trainings with equal settings would also pass if a setting had no effect."""
    plain, changed = train(run_of(plan_with())), train(run_of(plan_with(**setting)))
    assert not torch.equal(next(plain.network.parameters()), next(changed.network.parameters()))
    assert plan_with().run_id != plan_with(**setting).run_id


def test_smoothing_and_weights_match_the_formula() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=random), torch.tensor([0, 1, 2, 2, 1, 0])
    weights = torch.tensor([0.5, 1.0, 2.0])
    log_p = logits.log_softmax(1)
    expected = 0.0
    for row, label in enumerate(labels.tolist()):
        for k in range(3):
            share = 0.9 * (k == label) + 0.1 / 3
            expected -= float(weights[k] * share * log_p[row, k]) / len(labels)
    found = weighted_loss(logits, labels, labels, weights, smoothing=0.1)
    assert float(found.mean) == pytest.approx(expected)
    assert torch.equal(found.each, plain_loss(logits, labels, labels).each)


def test_inverse_weights_have_mean_one_over_the_samples() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    weights = class_weights("inverse", ("a", "b", "c", "gone"), labels)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([100 / 180, 100 / 90, 100 / 30, 1.0]))
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert class_weights("none", ("a", "b", "c"), labels) is None


def test_balanced_epochs_contain_all_classes_equally_often() -> None:
    """An epoch has 111 images. Each of the three classes, with 100, 10 and 1 images, appears 37 times."""
    labels = torch.tensor([0] * 100 + [1] * 10 + [2])
    appearances = balanced_appearances(labels)
    assert float(appearances.sum()) == pytest.approx(111)
    drawn = torch.cat([draw_epoch(appearances, 111, torch.Generator().manual_seed(k)) for k in range(50)])
    shares = torch.bincount(labels[drawn]) / len(drawn)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    assert int((drawn == 110).sum()) == 50 * 37
    assert run_of(plan_with(balanced_sampling=True)).loader.sampler.probability is not None


def test_counters_count_repeated_samples() -> None:
    task = Task.model_validate({**TASK.model_dump(), "training": Training(balanced_sampling=True, epochs=1)})
    run = run_of(plan_of(task).model_copy(update={"iterations": 3, "evaluate_every": 3}))
    train(run)
    counters: Counters = run.counters
    assert int(counters.seen.sum()) == 3 * task.training.batch_size
