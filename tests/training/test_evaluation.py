"""Evaluation equals a loop over samples. A partial evaluation gives the same decision as a full one."""

import json
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from weakref import ReferenceType, ref

import pytest
import torch
from support.trainings import SIZE, TASK, dropout_net, plan_of, run_of, samples, target_at
from torch import Tensor, nn
from torch.nn import functional

from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.records import Plan
from retrain.records.plan import Scope
from retrain.training.evaluation import (
    CHUNK,
    TRAIN_SAMPLES,
    evaluate_samples,
    measure,
    measure_train_accuracy,
    predict_classes,
)
from retrain.training.groups import Groups
from retrain.training.loop import train_step
from retrain.training.stopping import (
    EARLY_RISK,
    FIRST,
    RISK,
    is_early,
    rejection_risk,
    subset_ends,
    tail_probability,
)

NORMALIZE = Normalize(TASK.data)
CLASSES = 5
ROOT = Path(__file__).parents[2]


@pytest.fixture
def network() -> nn.Module:
    """Return a network in training mode. Its running statistics differ from the statistics of each batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = dropout_net(CLASSES, SIZE).to(memory_format=torch.channels_last)
        network(torch.randn(64, 3, SIZE, SIZE))
    return network


class Naive(NamedTuple):
    predicted: list[int]
    probabilities: list[float]
    accuracy: float
    loss: float


@torch.no_grad()
def one_by_one(network: nn.Module, held: Samples) -> Naive:
    """Evaluate the network on one sample after another."""
    network.eval()
    mean, std = torch.tensor(TASK.data.mean).view(3, 1, 1), torch.tensor(TASK.data.std).view(3, 1, 1)
    predicted, probabilities, losses = [], [], []
    for image, label in zip(held.images, held.labels, strict=True):
        logits = network(((image / 255 - mean) / std)[None])
        predicted.append(int(logits.argmax()))
        probabilities.append(float(logits.softmax(-1).max()))
        losses.append(float(functional.cross_entropy(logits, label[None])))
    network.train()
    right = [guess == label for guess, label in zip(predicted, held.labels.tolist(), strict=True)]
    return Naive(predicted, probabilities, sum(right) / len(right), sum(losses) / len(losses))


def test_full_evaluation_equals_a_loop_over_samples(network: nn.Module) -> None:
    held = samples([CHUNK + 137], CLASSES)
    naive = one_by_one(network, held)
    assert 0 < naive.accuracy < 1
    order = torch.randperm(len(held.labels), generator=torch.Generator().manual_seed(1))
    measured = measure(network, held, order, NORMALIZE, needed=0.0)
    assert measured.accuracy == naive.accuracy
    assert measured.loss == pytest.approx(naive.loss, rel=1e-5)
    assert measured.images == CHUNK + 137
    classes, probabilities, _ = predict_classes(network, held, NORMALIZE)
    assert classes.tolist() == naive.predicted
    assert probabilities.tolist() == pytest.approx(naive.probabilities, rel=1e-5)


def test_evaluation_frees_the_logits_of_each_chunk(network: nn.Module) -> None:
    """All logits of a million images and a thousand classes would take 4 GB."""
    made: list[ReferenceType[Tensor]] = []
    kept = []

    def note(module: nn.Module, images: tuple[Tensor], logits: Tensor) -> None:
        kept.append(sum(reference() is not None for reference in made))
        made.append(ref(logits))

    network.register_forward_hook(note)
    held = samples([5 * CHUNK], CLASSES)
    correct, losses = evaluate_samples(network, held, NORMALIZE)
    assert max(kept) <= 1
    naive = one_by_one(network, held)
    assert float(correct.double().mean()) == naive.accuracy
    assert float(losses.mean()) == pytest.approx(naive.loss, rel=1e-4)


def test_evaluation_restores_the_network_even_if_it_stops_early(network: nn.Module) -> None:
    held = samples([3 * CHUNK], CLASSES)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    measured = measure(network, held, torch.arange(3 * CHUNK), NORMALIZE, needed=1.0)
    assert measured.images < 3 * CHUNK
    assert all(module.training for module in network.modules())
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_bf16_evaluation_is_close_to_fp32(network: nn.Module) -> None:
    held = samples([CHUNK], CLASSES)
    exact, half = (
        measure(network, held, torch.arange(CHUNK), Normalize(TASK.data, bf16), needed=0.0) for bf16 in (False, True)
    )
    assert half.loss == pytest.approx(exact.loss, rel=0.02)
    assert half.loss != exact.loss
    assert half.accuracy == pytest.approx(exact.accuracy, abs=0.02)


class Bright(nn.Module):
    """A network that predicts class 1 for bright images and class 0 for dark images."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3)) > 0
        return torch.stack([~bright, bright], 1).float()


def half_right(total: int) -> Samples:
    """Return samples of class 1. Every second image is bright."""
    images = torch.zeros(total, 3, 4, 4, dtype=torch.uint8)
    images[0::2] = 255
    return Samples.of(images, torch.ones(total, dtype=torch.int64), [total])


@pytest.mark.parametrize("needed", [0.45, 0.5, 0.52, 0.55, 0.6])
def test_partial_evaluation_never_reports_a_reached_target(needed: float) -> None:
    held, drawn = half_right(4000), torch.Generator().manual_seed(0)
    for _ in range(60):
        measured = measure(Bright(), held, torch.randperm(4000, generator=drawn), NORMALIZE, needed)
        if measured.images < 4000:
            assert needed > 0.5
        else:
            assert measured.accuracy == 0.5


def test_evaluation_stops_early_only_far_below_its_target() -> None:
    held, drawn = half_right(4000), torch.Generator().manual_seed(0)
    images = {
        needed: [
            measure(Bright(), held, torch.randperm(4000, generator=drawn), NORMALIZE, needed).images for _ in range(20)
        ]
        for needed in (0.75, 0.505)
    }
    assert max(images[0.75]) <= 2 * FIRST
    assert min(images[0.505]) > 4 * FIRST


def curves(name: str) -> list[list[float]]:
    """Return the accuracies that a study recorded for each of its runs."""
    lines = (ROOT / "docs" / "evidence" / name / "runs.jsonl").read_text().splitlines()
    return [run["curve"]["accuracy"] for run in map(json.loads, lines) if "curve" in run]


def right(share: float, total: int) -> Samples:
    """Return samples of which `Bright` classifies this share correctly."""
    held = half_right(total)
    held.images.fill_(0)
    held.images[: round(share * total)] = 255
    return held


def test_partial_evaluations_find_the_target_as_full_ones_do() -> None:
    """Use the curves of real runs. The target of each run is its final accuracy."""
    total, drawn, used, full = 2000, torch.Generator().manual_seed(0), 0, 0
    for accuracies in curves("digits"):
        shares = [round(accuracy * total) / total for accuracy in accuracies]
        for share in shares:
            order = torch.randperm(total, generator=drawn)
            measured = measure(Bright(), right(share, total), order, NORMALIZE, needed=shares[-1])
            used, full = used + measured.images, full + total
            assert (measured.images == total and measured.accuracy == share) or share < shares[-1]
            if share >= shares[-1]:
                break
    assert used < 0.75 * full


def plan_with_groups(known: int = 1, parent: str | None = "scratch-0") -> Plan:
    """Return a plan on three drops of 20, 30 and 50 samples.

    The target's scope is the first and the third drop, and four of five classes.
    """
    scope = Scope(drops=("d-0", "d-2"), classes=4)
    plan = plan_of(method="continuous", sizes=(20, 30, 50), classes=CLASSES, known=known, parent=parent)
    target = target_at(0.8).model_copy(update={"provenance": "carried", "scope": scope})
    return plan.model_copy(update={"target": target})


def test_group_accuracies_equal_a_loop_over_samples(network: nn.Module) -> None:
    held = samples([20, 30, 50], CLASSES)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    measured = measure(network, held, order, NORMALIZE, 0.0, groups=Groups.of(plan_with_groups(), held))
    network.eval()
    in_scope, among_all, newest = [], [], []
    with torch.no_grad():
        for number, (image, label) in enumerate(zip(held.images, held.labels.tolist(), strict=True)):
            logits = network(NORMALIZE(image[None]))[0].tolist()
            if (number < 20 or number >= 50) and label < 4:
                in_scope.append(logits.index(max(logits[:4])) == label)
                among_all.append(logits.index(max(logits)) == label)
            if number >= 20:
                newest.append(logits.index(max(logits)) == label)
    assert measured.in_scope == sum(in_scope) / len(in_scope)
    assert measured.scope_among_all == sum(among_all) / len(among_all)
    assert measured.newest == sum(newest) / len(newest)
    assert measured.accuracy == measure(network, held, order, NORMALIZE, 0.0).accuracy


def test_groups_without_samples_have_no_accuracy(network: nn.Module) -> None:
    held = samples([20, 30, 50], CLASSES)
    plain = measure(network, held, torch.arange(100), NORMALIZE, 0.0)
    assert (plain.in_scope, plain.scope_among_all, plain.newest) == (None, None, None)
    for plan in (plan_with_groups(known=3), plan_with_groups(parent=None)):
        measured = measure(network, held, torch.arange(100), NORMALIZE, 0.0, groups=Groups.of(plan, held))
        assert measured.in_scope is not None
        assert measured.newest is None


def test_groups_have_no_accuracy_if_evaluation_stops_early(network: nn.Module) -> None:
    held = samples([3 * CHUNK, 30, 50], CLASSES)
    groups = Groups.of(plan_with_groups(), held)
    measured = measure(network, held, torch.arange(len(held)), NORMALIZE, needed=1.0, groups=groups)
    assert measured.images < len(held)
    assert (measured.in_scope, measured.scope_among_all, measured.newest) == (None, None, None)


def test_train_accuracy_uses_a_subset_and_counts_as_cost() -> None:
    run = run_of(plan_of(sizes=(TRAIN_SAMPLES + 100,)))
    chosen = measure_train_accuracy(run)
    assert run.progress.evaluated_images == TRAIN_SAMPLES
    naive = one_by_one(run.network, run.train)
    assert chosen == pytest.approx(naive.accuracy, abs=0.02)
    few = run_of(plan_of(sizes=(160,)))
    assert measure_train_accuracy(few) == one_by_one(few.network, few.train).accuracy
    assert few.progress.evaluated_images == 160
    assert few.progress.evaluation_seconds > 0


def test_exact_counters_come_from_evaluations_after_each_epoch() -> None:
    """Compare the counters with eq. 6 of Verwimp et al., with one evaluation after each epoch."""
    training = TASK.training.model_copy(update={"learning_speed": "exact", "epochs": 3.0})
    run = run_of(plan_of(TASK.model_copy(update={"training": training})))
    correct, passes = torch.zeros(160), 0
    for iteration in range(1, run.plan.iterations + 1):
        train_step(run)
        if run.loader.sampler.number > passes or iteration == run.plan.iterations:
            passes += 1
            run.network.eval()
            with torch.no_grad():
                correct += run.network(run.normalize(run.train.images)).argmax(1) == run.train.labels
            run.network.train()
    assert (run.plan.iterations, passes) == (15, 3)
    assert torch.equal(run.counters.seen, torch.full((160,), 3, dtype=run.counters.seen.dtype))
    assert torch.equal(run.counters.correct.float(), correct)
    assert 0 < correct.sum() < 3 * 160
    assert run.progress.evaluated_images == 3 * 160


@pytest.mark.parametrize("total", [1, FIRST, FIRST + 1, 5000, 100_000])
def test_partial_evaluations_grow_to_the_full_split(total: int) -> None:
    ends = list(subset_ends(total))
    assert ends[-1] == total
    assert ends[0] == min(FIRST, total)
    assert all(1 < later / earlier <= 1.51 for earlier, later in pairwise(ends))


def test_risk_of_a_wrong_stop_is_higher_in_early_iterations() -> None:
    target = target_at(0.8).model_copy(update={"expected_from": 60})
    assert [is_early(target, iteration) for iteration in (1, 59, 60, 100)] == [True, True, False, False]
    assert not is_early(target_at(0.8), 1)
    assert not is_early(None, 1)
    assert (rejection_risk(True, 10), rejection_risk(False, 10)) == (EARLY_RISK, RISK / 10)


def test_evaluation_in_early_iterations_stops_below_target() -> None:
    needed, total = 600, 1000
    assert tail_probability(118, 200, needed, total) < EARLY_RISK < tail_probability(122, 200, needed, total)
