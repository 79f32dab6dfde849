"""The loop gives the same curve as a script with the same data, augmentation and optimizer."""

import ast
import inspect
import itertools
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
import torch
from support.trainings import TASK, RecordingObserver, plan_of, run_of, target_at
from torch import Tensor, nn
from torch.nn import functional

from retrain.config import Method
from retrain.config.optimizers import Adam, Sgd
from retrain.config.recipe import Constant, ShrinkPerturb
from retrain.config.task import Averaging, ExponentialAverage, PowerAverage, Task
from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.models import factory
from retrain.recipe.learning_speed import Counters
from retrain.recipe.sampling import keep_probability
from retrain.records import Origin, Plan, Point
from retrain.records.plan import Scope, StopRule
from retrain.training import loop
from retrain.training.loop import outcome_at, run_loop, train_step
from retrain.training.result import make_result
from retrain.training.seeds import derive_seed, make_generator
from retrain.training.setup import Parent, Run

SIZES, CLASSES, OLD_CLASSES = (160, 64), 5, 3
STRENGTH = 0.01


def train(run: Run, observer: RecordingObserver | None = None) -> str:
    """Train without saving or stopping."""
    return run_loop(run, observer or RecordingObserver(), lambda run: None, lambda: False)


def task_with(**training: object) -> Task:
    return TASK.model_copy(update={"training": TASK.training.model_copy(update={"save_seconds": 60, **training})})


class Naive(NamedTuple):
    network: nn.Module
    accuracies: list[float]
    train_losses: list[float]


def by_hand(plan: Plan, data: Samples, val: Samples, parent: Parent | None) -> Naive:
    """Train as a plain script for the plan's method would."""
    network, origin = fresh_network(plan), fresh_network(plan)
    if plan.method == "naive":
        take_over(network, parent.weights, 1.0, 0.0)
    if plan.method == "continuous":
        take_over(network, parent.weights, 0.4, 0.001)
        take_over(origin, first_network(plan).state_dict(), 1.0, 0.0)
    make = torch.optim.Adam if isinstance(plan.task.training.optimizer, Adam) else momentum_sgd
    optimizer = make(network.parameters(), lr=plan.task.training.optimizer.learning_rate)
    cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / plan.iterations)))
    batches, random = batches_of(plan, data, parent), make_generator(plan.seed, "augmentation")
    torch.manual_seed(derive_seed(plan.seed, "layers"))
    accuracies, train_losses, losses = [], [], []
    for iteration in range(1, plan.iterations + 1):
        if plan.method != "naive":
            network[1].momentum = 0.1 / (1 - 0.9**iteration)  # average over this run's batches only
        indices = next(batches)
        loss = functional.cross_entropy(network(augmented(data.images[indices], random)), data.labels[indices])
        losses.append(loss.item())
        if plan.method == "continuous":
            pairs = zip(network.parameters(), origin.parameters(), strict=True)
            loss = loss + STRENGTH * sum((ours - first.detach()).square().sum() for ours, first in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
        if iteration % plan.evaluate_every == 0 or iteration == plan.iterations:
            accuracies.append(accuracy_of(network, val))
            train_losses.append(sum(losses) / len(losses))
            losses = []
    return Naive(network, accuracies, train_losses)


def momentum_sgd(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def fresh_network(plan: Plan) -> nn.Module:
    seed = derive_seed(plan.seed, "weights", len(plan.dataset.drops))
    return factory.build_network(plan.task.model, len(plan.dataset.classes), plan.task.data.image_size, seed)


def first_network(plan: Plan) -> nn.Module:
    seed = derive_seed(plan.origin.seed, "weights", plan.origin.drops)
    return factory.build_network(plan.task.model, plan.origin.classes, plan.task.data.image_size, seed)


@torch.no_grad()
def take_over(network: nn.Module, old: dict[str, Tensor], alpha: float, beta: float) -> None:
    """Set each row that is also in `old` to alpha * old + beta * new. If beta is 0, copy the buffers of `old`."""
    for name, tensor in network.state_dict().items():
        rows = len(old[name]) if tensor.ndim else ...
        if name in dict(network.named_parameters()):
            tensor[:rows] = alpha * old[name] + beta * tensor[:rows]
        elif beta == 0:
            tensor.copy_(old[name])


def batches_of(plan: Plan, data: Samples, parent: Parent | None) -> Iterator[Tensor]:
    counters = parent.counters if parent else Counters.zeros(len(data.labels))
    keep = keep_probability(plan.recipe.sampling, counters, data.drop < plan.known)
    stream = endless_passes(keep, len(data.labels), plan.seed)
    while True:
        yield torch.tensor(list(itertools.islice(stream, plan.task.training.batch_size)))


def endless_passes(keep: Tensor | None, size: int, seed: int) -> Iterator[int]:
    for number in itertools.count():
        random = make_generator(seed, "pass", number)
        chosen = torch.arange(size)
        if keep is not None:
            chosen = chosen[torch.rand(size, generator=random) < keep]
        yield from chosen[torch.randperm(len(chosen), generator=random)].tolist()


def augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """Crop and mirror one image after another."""
    padding, size = TASK.data.crop_padding, images.shape[-1]
    tops, lefts = torch.randint(2 * padding + 1, (2, len(images)), generator=random).tolist()
    mirrored = (torch.rand(len(images), generator=random) < 0.5).tolist()
    changed = []
    for image, top, left, mirror in zip(images, tops, lefts, mirrored, strict=True):
        crop = functional.pad(image, (padding,) * 4)[:, top : top + size, left : left + size]
        changed.append(crop.flip(2) if mirror else crop)
    return (torch.stack(changed) / 255 - 0.5) / 0.25


@torch.no_grad()
def accuracy_of(network: nn.Module, val: Samples) -> float:
    network.eval()
    right = network((val.images / 255 - 0.5) / 0.25).argmax(1) == val.labels
    network.train()
    return float(right.double().mean())


def parent_of(task: Task) -> Parent:
    """Return a parent that was trained on the first drop."""
    run = run_of(plan_of(task, sizes=SIZES[:1], classes=OLD_CLASSES))
    train(run)
    unknown = Counters.zeros(SIZES[1])
    counted = [torch.cat([ours, zeros]) for ours, zeros in zip(columns(run.counters), columns(unknown), strict=True)]
    return Parent({name: tensor.clone() for name, tensor in run.network.state_dict().items()}, Counters(*counted))


def columns(counters: Counters) -> tuple[Tensor, Tensor, Tensor]:
    return counters.seen, counters.correct, counters.loss


def plan_for(method: Method, task: Task) -> Plan:
    if method == "scratch":
        return plan_of(task, sizes=SIZES, classes=CLASSES)
    origin = Origin(seed=task.seed, drops=1, classes=OLD_CLASSES)
    return plan_of(task, method, SIZES, CLASSES, known=1, parent="scratch-0", origin=origin)


@pytest.mark.parametrize("optimizer", [Adam(), Sgd(learning_rate=0.02)], ids=lambda setting: setting.name)
@pytest.mark.parametrize("method", ["scratch", "naive", "continuous"])
def test_each_method_equals_a_plain_training_script(method: Method, optimizer: Adam | Sgd) -> None:
    task = task_with(optimizer=optimizer)
    parent = parent_of(task) if method != "scratch" else None
    run = run_of(plan_for(method, task), parent)
    assert train(run) == "completed"
    naive = by_hand(run.plan, run.train, run.val, parent)
    assert [point.train_loss for point in run.progress.points] == pytest.approx(naive.train_losses, rel=2e-4)
    assert [point.accuracy for point in run.progress.points] == pytest.approx(naive.accuracies, abs=1e-9)
    assert naive.accuracies[-1] > 0.5
    for name, tensor in naive.network.state_dict().items():
        torch.testing.assert_close(run.network.state_dict()[name], tensor, rtol=2e-3, atol=2e-4)


def test_training_loop_does_not_depend_on_the_method() -> None:
    used = {node.attr for node in ast.walk(ast.parse(inspect.getsource(loop))) if isinstance(node, ast.Attribute)}
    assert used & {"method", "purpose", "parent", "known", "initialization", "objective", "sampling"} == set()


def test_same_seed_gives_the_same_curve_bit_for_bit() -> None:
    runs = []
    for seed in (3, 3, 4):
        torch.rand(7)  # earlier random numbers of this process must not matter
        runs.append(run_of(plan_of(task_with().model_copy(update={"seed": seed}))))
        train(runs[-1])
    first, again, other = runs
    assert first.progress.points == again.progress.points
    assert all(map(torch.equal, first.network.state_dict().values(), again.network.state_dict().values()))
    assert first.progress.points != other.progress.points


def test_evaluations_are_at_each_interval_and_at_the_runs_end() -> None:
    plan = plan_of(task_with()).model_copy(update={"evaluate_every": 7, "iterations": 17})
    run, observer = run_of(plan), RecordingObserver()
    assert train(run, observer) == observer.outcome == "completed"
    assert [point.iteration for point in run.progress.points] == [7, 14, 17]
    assert observer.points == run.progress.points
    assert observer.stepped_to == list(range(1, 18))
    assert run.progress.evaluated_images == 3 * 100
    rates = [0.001 * (1 + math.cos(math.pi * (done - 1) / 17)) / 2 for done in (7, 14, 17)]
    assert [point.learning_rate for point in run.progress.points] == pytest.approx(rates)


def test_run_stops_at_the_first_evaluation_at_its_target() -> None:
    full = run_of(plan_of(task_with()))
    train(full)
    points = full.progress.points
    middle = points[len(points) // 2]
    run = run_of(plan_of(task_with(), target=middle.accuracy))
    assert train(run) == "reached"
    first = next(point for point in points if point.accuracy >= middle.accuracy)
    assert run.progress.points == points[: points.index(first) + 1]
    assert run.progress.iteration == first.iteration < full.plan.iterations


def test_run_that_ends_below_its_target_has_missed_it() -> None:
    run = run_of(plan_of(task_with(), target=1.01))
    assert train(run) == "missed"
    assert run.progress.iteration == run.plan.iterations


def test_best_accuracy_includes_rejected_evaluations() -> None:
    run = run_of(plan_of(task_with(), target=1.01))
    train(run)
    run.progress.points = [point.model_copy(update={"images": 10}) for point in run.progress.points]
    result = make_result(run, "missed", datetime.now(UTC), None, "index", None)
    assert result.best_accuracy == max(point.accuracy for point in run.progress.points) > 0


def test_partial_evaluation_never_reaches_a_target() -> None:
    run = run_of(plan_of(task_with(), target=0.5))
    assert train(run) == "reached"
    last = run.progress.points[-1]
    assert outcome_at(run, last) == "reached"
    assert outcome_at(run, last.model_copy(update={"images": 99})) is None


@pytest.mark.parametrize("bf16", [False, True])
def test_non_finite_loss_ends_the_run_at_the_next_evaluation(bf16: bool) -> None:
    run = run_of(plan_of(task_with(optimizer=Sgd(learning_rate=1e30), bf16=bf16)))
    assert train(run) == "diverged"
    assert run.progress.iteration == run.plan.evaluate_every
    assert run.progress.points[-1].train_loss is None


def test_non_finite_weights_after_the_last_step_end_the_run() -> None:
    plan = plan_of(task_with(optimizer=Sgd(learning_rate=1e38))).model_copy(update={"iterations": 1})
    run = run_of(plan)
    assert train(run) == "diverged"
    assert run.progress.points[-1].train_loss is not None
    assert run.progress.points[-1].loss is None


def test_bf16_run_learns_like_an_fp32_run() -> None:
    exact, half = (run_of(plan_of(task_with(bf16=bf16))) for bf16 in (False, True))
    assert (train(exact), train(half)) == ("completed", "completed")
    assert half.progress.points[-1].accuracy == pytest.approx(exact.progress.points[-1].accuracy, abs=0.1)
    assert half.progress.points[-1].train_loss != exact.progress.points[-1].train_loss
    assert {parameter.dtype for parameter in half.network.parameters()} == {torch.float32}


def test_step_counts_samples_in_its_own_forward_pass() -> None:
    run = run_of(plan_of(task_with()))
    torch.manual_seed(derive_seed(run.plan.seed, "layers"))
    indices = next(batches_of(run.plan, run.train, None))
    twin = fresh_network(run.plan)
    logits = twin(augmented(run.train.images[indices], make_generator(run.plan.seed, "augmentation")))
    losses = functional.cross_entropy(logits, run.train.labels[indices], reduction="none")
    torch.manual_seed(derive_seed(run.plan.seed, "layers"))
    train_step(run)
    assert run.counters.seen.nonzero().flatten().tolist() == sorted(indices.tolist())
    assert torch.equal(run.counters.correct[indices], (logits.argmax(1) == run.train.labels[indices]).float())
    torch.testing.assert_close(run.counters.loss[indices], losses.detach())


def test_evaluation_uses_the_tasks_own_normalization() -> None:
    run = run_of(plan_of())
    assert torch.equal(run.normalize(run.val.images), Normalize(TASK.data)(run.val.images))


@pytest.mark.parametrize("averaging", [PowerAverage(), ExponentialAverage(decay=0.8)], ids=str)
@pytest.mark.parametrize("method", ["scratch", "naive", "continuous"])
def test_curve_points_evaluate_the_average_in_every_method(method: Method, averaging: Averaging) -> None:
    parent = parent_of(task_with()) if method != "scratch" else None
    plan = plan_for(method, task_with()).model_copy(update={"averaging": averaging})
    plain = run_of(plan_for(method, task_with()), parent)
    train(plain)
    run = run_of(plan, parent)
    train(run)
    assert all(map(torch.equal, run.network.state_dict().values(), plain.network.state_dict().values()))
    assert run.progress.points[-1].accuracy == accuracy_of(run.average.network(), run.val)
    assert run.progress.points[-1].loss != plain.progress.points[-1].loss
    assert [point.train_loss for point in run.progress.points] == [point.train_loss for point in plain.progress.points]


def test_points_have_the_accuracy_of_training_batches() -> None:
    run = run_of(plan_of(task_with()))
    train(run)
    batch = TASK.training.batch_size
    assert run.counters.seen.sum() == run.plan.iterations * batch
    shares = [point.train_accuracy * run.plan.evaluate_every * batch for point in run.progress.points]
    assert sum(shares) == pytest.approx(float(run.counters.correct.sum()))


def test_shrunk_network_is_above_chance_after_few_iterations() -> None:
    """Check that the initial values of new running statistics have no effect.

    The parent's convolution is made small, and its running statistics are changed to compensate.
    """
    parent, plan = parent_of(task_with()), plan_for("continuous", task_with())
    for name, factor in {"0.weight": 0.02, "1.running_mean": 0.02, "1.running_var": 0.02**2}.items():
        parent.weights[name].mul_(factor)
    recipe = plan.recipe.model_copy(update={"schedule": Constant(), "initialization": ShrinkPerturb()})
    for iterations in (1, 3):
        changed = {"recipe": recipe, "iterations": iterations, "averaging": PowerAverage()}
        run = run_of(plan.model_copy(update=changed), parent)
        train(run)
        assert run.progress.points[-1].accuracy > 1.6 / CLASSES


@pytest.mark.parametrize("initialization", [ShrinkPerturb(rate=2.5), ShrinkPerturb()])
def test_initialization_sets_the_learning_rate(initialization: ShrinkPerturb) -> None:
    parent, plan = parent_of(task_with()), plan_for("continuous", task_with())
    recipe = plan.recipe.model_copy(update={"schedule": Constant(warmup=0), "initialization": initialization})
    run = run_of(plan.model_copy(update={"recipe": recipe, "iterations": 2}), parent)
    train(run)
    assert run.progress.points[-1].learning_rate == pytest.approx(0.001 * initialization.rate)


RULE = StopRule(confirmations=2, window=7, gain=0.01, patience=14)


def test_run_with_a_stop_rule_ends_at_a_confirmed_target() -> None:
    full = run_of(plan_of(task_with(epochs=24)))
    train(full)
    points = full.progress.points
    target = sorted(point.accuracy for point in points)[len(points) // 3]
    plan = plan_of(task_with(epochs=24), target=target)
    run = run_of(plan.model_copy(update={"stop_rule": RULE.model_copy(update={"patience": 1000, "gain": 0.0})}))
    assert train(run) == "reached"
    pairs = itertools.pairwise(points)
    second = next(later for earlier, later in pairs if min(earlier.accuracy, later.accuracy) >= target)
    assert run.progress.iteration == second.iteration
    assert all(point.images == len(run.val_order) for point in run.progress.points)


def test_run_that_no_longer_improves_ends_at_its_plateau() -> None:
    plan = plan_of(task_with(epochs=400), target=1.01).model_copy(update={"stop_rule": RULE})
    run = run_of(plan)
    assert train(run) == "plateau"
    assert run.progress.iteration < plan.iterations / 2


def test_carried_target_is_reached_within_its_scope() -> None:
    scope = Scope(drops=("d-0",), classes=OLD_CLASSES)
    target = target_at(0.7).model_copy(update={"provenance": "carried", "scope": scope, "age": 1})
    run = run_of(plan_for("naive", task_with()).model_copy(update={"target": target}), parent_of(task_with()))
    run.progress.iteration = 14
    point = point_at(7, 0.5, 0.75)
    run.progress.points = [point, point_at(14, 0.75, 0.65)]
    result = make_result(run, "missed", datetime.now(UTC), None, "index", None, 0.9)
    assert result.reached_at == {"99": 7, "100": 7}
    assert result.speed_up == {"99": None, "100": None}, "the target's scope is not the full dataset"
    assert result.train_accuracy == 0.9


def point_at(iteration: int, accuracy: float, in_scope: float) -> Point:
    return Point(
        iteration=iteration,
        accuracy=accuracy,
        loss=1.0,
        images=100,
        train_loss=1.0,
        learning_rate=0.001,
        in_scope=in_scope,
    )


@pytest.mark.parametrize(("wanted", "ends_early"), [(None, False), (0.5, True)])
def test_run_without_target_stops_at_its_training_accuracy(wanted: float | None, ends_early: bool) -> None:
    """Ash & Adams (section 3.7) train until the training data are fitted."""
    task = task_with()
    training = task.training.model_copy(update={"stop_at_train_accuracy": wanted})
    run = run_of(plan_for("scratch", task.model_copy(update={"training": training})))
    assert train(run) == "completed"
    assert (run.progress.iteration < run.plan.iterations) == ends_early
    before, last = run.progress.points[:-1], run.progress.points[-1]
    if ends_early and wanted:
        assert last.train_accuracy
        assert last.train_accuracy >= wanted
        assert all(point.train_accuracy is not None and point.train_accuracy < wanted for point in before)
