"""Evaluate a run's model on the held-out test split, beside the champion's."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from retrain.data.augment import Normalize
from retrain.data.dataset import untrained_classes
from retrain.data.samples import Samples
from retrain.errors import ModelError
from retrain.models import factory
from retrain.pipeline.context import Context
from retrain.pipeline.error_analysis import analyse_test_split
from retrain.pipeline.gate import compare
from retrain.records import Evaluation, Plan
from retrain.records.plan import check_known
from retrain.store.runs import RunFiles
from retrain.training.evaluation import predict_classes


def evaluate_run(context: Context, plan: Plan, champion: str | None) -> Evaluation:
    """Evaluate a run's model on its dataset's test split, and the champion's on the same samples, measured now.

    What the model gets wrong is written beside the run's other files.
    """
    test = _test(context, plan, plan)
    shown = _is_learnable(context, plan, test)
    predicted, probability = _predict(context, plan, test)
    ours = (predicted == test.labels.cpu())[shown]
    comparison = None
    known: tuple[str, ...] = ()
    if champion:
        before = context.files(champion).plan()
        known = before.dataset.classes
        same = before.task.data.frame == plan.task.data.frame  # nothing else of a task changes the images
        theirs = _correct(context, before, plan, test if same else _test(context, before, plan))[shown]
        comparison = compare(champion, theirs, ours, plan.task.gate.confidence)
    context.files(plan.run_id).write_errors(analyse_test_split(plan, known, test, predicted, probability))
    old = test.drop.cpu()[shown] < plan.known
    return Evaluation(
        samples=len(ours),
        accuracy=float(ours.double().mean()),
        old=_mean(ours, old),
        new=_mean(ours, ~old),
        by_class=_by_class(ours, test.labels.cpu()[shown], plan.dataset.classes),
        comparison=comparison,
    )


def _is_learnable(context: Context, plan: Plan, test: Samples) -> Tensor:
    """Say of each test sample, bool [N], whether its class has training samples: others tell nothing of a model."""
    untrained = set(untrained_classes(context.drops(plan.dataset)))
    learnable = torch.tensor([name not in untrained for name in plan.dataset.classes])[test.labels.cpu()]
    return learnable if learnable.any() else torch.ones_like(learnable)


def _test(context: Context, plan: Plan, judged: Plan) -> Samples:
    """The test samples of the judged run's dataset, as the run of `plan` takes images."""
    return context.samples(judged.dataset, ["test"], plan.task.data, judged.loading)["test"]


def _correct(context: Context, plan: Plan, judged: Plan, test: Samples) -> Tensor:
    """Whether a run's model has each test sample right, bool [N] on the CPU: classes it never saw, it has wrong."""
    own_classes, _ = _predict(context, plan, test)
    index_of = {name: index for index, name in enumerate(judged.dataset.classes)}
    translate = torch.tensor([index_of.get(name, -1) for name in plan.dataset.classes])
    return translate[own_classes] == test.labels.cpu()


def _predict(context: Context, plan: Plan, test: Samples) -> tuple[Tensor, Tensor]:
    """Return what a run's model takes each test sample for, int64 [N], and how probable that is, [N]; on the CPU."""
    network = load_network(context.files(plan.run_id), plan, context.factories, context.device)
    normalize = Normalize(plan.task.data, plan.task.training.bf16)
    classes, probabilities = predict_classes(network, test, normalize)
    return classes.cpu(), probabilities.cpu()


def load_network(files: RunFiles, plan: Plan, factories: Collection[str], device: torch.device) -> nn.Module:
    """Return the network that a run ended with, on the device, as `restore_network` does and raises."""
    return factory.to_device_channels_last(restore_network(files, plan, factories), device)


def restore_network(files: RunFiles, plan: Plan, factories: Collection[str]) -> nn.Module:
    """Return the network that a run ended with, on the CPU and as its factory built it.

    Raises `RunError` if its model is damaged, or rests on settings of a later version; and `ModelError` if it is not
    that of the network that its plan names, or if the task names no such code.
    """
    check_known(plan)
    factory.check_factory_allowed(plan.task.model, factories)
    network = factory.build_network(plan.task.model, len(plan.dataset.classes), plan.task.data.image_size, seed=0)
    try:
        network.load_state_dict(files.weights())
    except RuntimeError as error:
        raise ModelError(f"the model of {plan.run_id} does not fit {plan.task.model.name}: {error}") from error
    return network


def _mean(right: Tensor, of: Tensor) -> float | None:
    """Accuracy over the samples that a mask selects, or None where it selects none."""
    return float(right[of].double().mean()) if of.any() else None


def _by_class(right: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy by class name, for the classes that have test samples."""
    counts = torch.bincount(labels, minlength=len(classes))
    hits = torch.bincount(labels[right], minlength=len(classes))
    return {name: int(hit) / int(count) for name, hit, count in zip(classes, hits, counts, strict=True) if count}
