"""Rows of the head for new classes are computed from the parent's features. The images count as a cost of the run.

The head is the network's last layer. It has a row of weights for each class.
"""

from collections.abc import Mapping

import pytest
import torch
from support.trainings import SIZE, TASK, RecordingObserver, plan_of, run_of
from torch import Tensor, nn
from torch.nn import functional

from retrain.config.recipe import Constant, Initialization, NoPenalty, Recipe, ShrinkPerturb, Uniform, Warm
from retrain.config.task import Model, Task
from retrain.data.augment import Normalize
from retrain.recipe.initialization import class_mean_rows
from retrain.training import head
from retrain.training.evaluation import measure
from retrain.training.loop import run_loop
from retrain.training.seeds import fresh_network
from retrain.training.setup import Parent, Run

SIZES, CLASSES, OLD_CLASSES = (480, 320), 5, 3
HEAD = "5.weight"
MEANS = [Warm(head_rows="class_means"), ShrinkPerturb(new_rows="class_means")]
FRESH = [Warm(), ShrinkPerturb()]


def task_with(initialization: Initialization, model: str | None = None) -> Task:
    recipe = Recipe(
        initialization=initialization, objective=NoPenalty(), sampling=Uniform(), schedule=Constant(warmup=0)
    )
    changes = {"recipe": recipe} | ({"model": Model(name=model)} if model else {})
    return TASK.model_copy(update=changes)


@pytest.fixture(scope="module")
def parent() -> Parent:
    """Return a parent that was trained on three classes."""
    run = run_of(plan_of(task_with(Warm()), sizes=SIZES[:1], classes=OLD_CLASSES))
    run_loop(run, RecordingObserver(), lambda run: None, lambda: False)
    return Parent({name: tensor.clone() for name, tensor in run.network.state_dict().items()}, None)


def continued(initialization: Initialization, parent: Parent) -> Run:
    plan = plan_of(task_with(initialization), "continuous", SIZES, CLASSES, known=1, parent="scratch-0")
    return run_of(plan, parent)


def naive_rows(
    features: list[Tensor], labels: list[int], old_mean: Tensor, old_rows: Tensor, old_classes: int
) -> list[Tensor]:
    """Return a row for each new class, by loops over classes and samples."""
    classes = sorted({label for label in labels if label >= old_classes})
    means = []
    for wanted in classes:
        own = [feature for feature, label in zip(features, labels, strict=True) if label == wanted]
        means.append(sum(own) / len(own))
    centre = (sum(means) + old_classes * old_mean) / (len(means) + old_classes)
    base = sum(old_rows) / len(old_rows)
    length = sum(float((row - base).norm()) for row in old_rows) / len(old_rows)
    rows = []
    for mean in means:
        difference = mean - centre
        difference = difference - float(difference @ centre) / float(centre @ centre) * centre
        rows.append(base + difference / difference.norm() * length)
    return rows


def test_class_mean_rows_equal_loops_over_classes() -> None:
    random = torch.Generator().manual_seed(0)
    features, old_rows, old_mean = (torch.rand(n, 7, generator=random) for n in (12, 4, 1))
    labels = [4, 5, 6] * 4
    means = torch.stack([features[k::3].mean(0) for k in range(3)])
    rows, biases = class_mean_rows(means, torch.full((3,), 4), old_mean[0], old_rows, torch.arange(4.0))
    expected = naive_rows(list(features), labels, old_mean[0], old_rows, 4)
    torch.testing.assert_close(rows, torch.stack(expected))
    assert biases is not None
    assert biases.tolist() == [1.5] * 3


def test_class_without_images_gets_the_mean_old_row() -> None:
    old_rows = torch.rand(4, 7)
    rows, biases = class_mean_rows(torch.zeros(2, 7), torch.tensor([0, 3]), torch.rand(7), old_rows, None)
    torch.testing.assert_close(rows[0], old_rows.mean(0))
    assert biases is None


@pytest.mark.parametrize("initialization", MEANS, ids=["warm", "shrink_perturb"])
def test_new_rows_match_the_parents_features(initialization: Initialization, parent: Parent) -> None:
    run = continued(initialization, parent)
    normalize = Normalize(TASK.data)
    weights = {name: tensor for name, tensor in parent.weights.items() if not name.startswith("5.")}
    body = features_of(weights, normalize(run.train.images))
    labels = run.train.labels
    expected = naive_rows(
        list(body), labels.tolist(), body[labels < OLD_CLASSES].mean(0), parent.weights[HEAD], OLD_CLASSES
    )
    if isinstance(initialization, Warm):
        target = torch.stack(expected)
    else:
        target = 0.4 * torch.stack(expected) + 0.001 * fresh_network(run.plan).get_parameter(HEAD)[OLD_CLASSES:]
    found = run.network.get_parameter(HEAD)[OLD_CLASSES:].detach()
    torch.testing.assert_close(found, target.detach(), rtol=1e-3, atol=1e-5)


def features_of(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return the inputs of the toy network's head, computed with torch's functions."""
    images = functional.conv2d(images, weights["0.weight"], padding=1)
    images = functional.batch_norm(
        images, weights["1.running_mean"], weights["1.running_var"], weights["1.weight"], weights["1.bias"]
    )
    return images.relu().flatten(1)


def test_head_rows_raise_accuracy_at_iteration_0(parent: Parent) -> None:
    runs = continued(MEANS[0], parent), continued(FRESH[0], parent)
    new = (runs[0].val.labels >= OLD_CLASSES).nonzero().squeeze(1)
    everything, newest = (
        [measure(run.network, run.val, order, run.normalize, needed=0.0).accuracy for run in runs]
        for order in (runs[0].val_order, new)
    )
    assert everything[0] > everything[1]
    assert newest[0] > newest[1] + 0.3


def test_images_for_head_rows_count_as_evaluated(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "EACH", 16)
    monkeypatch.setattr(head, "OLD", 50)
    assert continued(MEANS[0], parent).progress.evaluated_images == 2 * 16 + 50
    assert continued(FRESH[0], parent).progress.evaluated_images == 0


def test_samples_for_head_rows_are_bounded_and_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "EACH", 8)
    monkeypatch.setattr(head, "OLD", 20)
    labels = torch.arange(500) % 7
    chosen = head._choose(labels, old_classes=4, classes=7, seed=0)
    counts = torch.bincount(labels[chosen], minlength=7)
    assert counts[4:].tolist() == [8, 8, 8]
    assert counts[:4].sum() == 20
    assert len(set(chosen.tolist())) == len(chosen)
    assert not torch.equal(chosen, head._choose(labels, old_classes=4, classes=7, seed=1))


class Convolutional(nn.Module):
    """A network whose last layer is a convolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, classes, SIZE - 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).relu()).flatten(1)


def convolutional(classes: int, image_size: int) -> nn.Module:
    return Convolutional(classes)


def test_head_that_is_not_linear_gets_no_class_mean_rows() -> None:
    weights = Convolutional(OLD_CLASSES).state_dict()
    plan = plan_of(task_with(MEANS[0], f"{__name__}:convolutional"), "continuous", SIZES, CLASSES, 1, "scratch-0")
    run = run_of(plan, Parent(dict(weights), None))
    assert run.progress.evaluated_images == 0
    assert torch.equal(run.network.get_parameter("head.weight")[:OLD_CLASSES], weights["head.weight"])
