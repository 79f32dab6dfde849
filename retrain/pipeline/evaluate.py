"""Evaluate a run's model and the champion's model on the held-out test split."""

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from retrain.data.augment import Normalize
from retrain.data.dataset import untrained_classes
from retrain.data.samples import Samples
from retrain.errors import ModelError, RunError
from retrain.models import factory
from retrain.pipeline.context import Context
from retrain.pipeline.error_analysis import analyse_test_split
from retrain.pipeline.gate import compare, paired_difference, score_difference
from retrain.pipeline.targets import TOP_CLASSES
from retrain.records import Comparison, Evaluation, Plan
from retrain.records.plan import check_known
from retrain.store.runs import RunFiles
from retrain.training.evaluation import predict_classes
from retrain.training.scores import Predictions, Score, compute_score
from retrain.utils.text import pluralize


def evaluate_run(context: Context, plan: Plan, champion: str | None) -> Evaluation:
    """Evaluate a run's model and the champion's model on the same samples of the dataset's test split.

    Write the errors of the run's model to the run's folder. Raises `RunError` if all test samples were erased since
    the run was planned.
    """
    test = _test(context, plan, plan)
    if not len(test.labels):
        raise RunError(
            f"{plan.run_id} cannot be evaluated: all its test images were erased. Commit a drop with new ones"
        )
    learnable, labels = _is_learnable(context, plan, test), test.labels.cpu()
    predicted, probability, top = _predict(context, context.files(plan.run_id), plan, test)
    candidate = Predictions(predicted, _is_among(labels, top)).select(learnable)
    comparison = None
    known: tuple[str, ...] = ()
    if champion:
        files = context.champion_files(champion)
        before = files.plan()
        known = before.dataset.classes
        same = before.task.data.frame == plan.task.data.frame  # the settings that change the images
        seen = test if same else _test(context, before, plan)
        opponent = _predict_as(context, files, plan, seen).select(learnable)
        comparison = _compare(plan, champion, labels[learnable], opponent, candidate)
    context.files(plan.run_id).write_errors(analyse_test_split(plan, known, test, predicted, probability))
    return _evaluation(plan, labels[learnable], test.drop.cpu()[learnable] < plan.known, candidate, comparison)


def _evaluation(
    plan: Plan, labels: Tensor, old: Tensor, predictions: Predictions, comparison: Comparison | None
) -> Evaluation:
    """Score a run's predictions on all samples, on samples of old drops, and on samples of new drops.

    `old`, bool [N], selects the samples of old drops.
    """

    def score(of: Tensor) -> Score | None:
        return compute_score(plan.metric, labels[of], predictions.select(of)) if of.any() else None

    on_old, on_new = score(old), score(~old)
    right = predictions.likeliest == labels
    return Evaluation(
        samples=len(labels),
        accuracy=float(right.double().mean()),
        metric=plan.metric,
        score=compute_score(plan.metric, labels, predictions).value,
        old=on_old and on_old.value,
        new=on_new and on_new.value,
        gap_error=math.hypot(on_old.standard_error, on_new.standard_error) if on_old and on_new else 0.0,
        by_class=_by_class(right, labels, plan.dataset.classes),
        comparison=comparison,
    )


def _compare(plan: Plan, champion: str, labels: Tensor, opponent: Predictions, candidate: Predictions) -> Comparison:
    """Compare a candidate with the champion by the plan's metric. Negative flips always use the most likely class."""
    confidence = plan.task.gate.confidence
    comparison = compare(champion, opponent.likeliest == labels, candidate.likeliest == labels, confidence)
    before, now = (compute_score(plan.metric, labels, one) for one in (opponent, candidate))
    if plan.metric in TOP_CLASSES:
        better, worse = int((now.hits & ~before.hits).sum()), int((before.hits & ~now.hits).sum())
        difference = paired_difference(better, worse, len(labels), confidence)
    else:
        difference = score_difference(before, now, confidence)
    return comparison.model_copy(update={"champion_score": before.value, "difference": difference})


def _is_learnable(context: Context, plan: Plan, test: Samples) -> Tensor:
    """Return whether the class of each test sample has training samples, bool [N].

    If no test sample's class has training samples, the result is True for all.
    """
    untrained = set(untrained_classes(context.drops(plan.dataset)))
    learnable = torch.tensor([name not in untrained for name in plan.dataset.classes])[test.labels.cpu()]
    return learnable if learnable.any() else torch.ones_like(learnable)


def _test(context: Context, plan: Plan, candidate: Plan) -> Samples:
    """Return the test samples of the candidate's dataset, in the image format of `plan`."""
    return context.samples(candidate.dataset, ["test"], plan.task.data, candidate.loading)["test"]


def _predict_as(context: Context, files: RunFiles, candidate: Plan, test: Samples) -> Predictions:
    """Return the champion's predictions on the CPU, with classes numbered as in the candidate's dataset.

    A class that this dataset lacks becomes -1.
    """
    plan = files.plan()
    predicted, _, top = _predict(context, files, plan, test)
    index_of = {name: index for index, name in enumerate(candidate.dataset.classes)}
    translate = torch.tensor([index_of.get(name, -1) for name in plan.dataset.classes])
    return Predictions(translate[predicted], _is_among(test.labels.cpu(), translate[top]))


def _is_among(labels: Tensor, top: Tensor) -> Tensor:
    """Return whether each label, int64 [N], is among the k classes predicted for its sample, [N, k]: bool [N]."""
    return (top == labels[:, None]).any(1)


def _predict(context: Context, files: RunFiles, plan: Plan, test: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """Return a run's predictions, as `predict_classes` does, on the CPU."""
    network = load_network(files, plan, context.factories, context.device)
    normalize = Normalize(plan.task.data, plan.task.training.bf16)
    classes, probabilities, top = predict_classes(network, test, normalize)
    return classes.cpu(), probabilities.cpu(), top.cpu()


def load_network(files: RunFiles, plan: Plan, factories: Collection[str], device: torch.device) -> nn.Module:
    """Return a run's final network on the device. Raises the errors of `restore_network`."""
    return factory.to_device_channels_last(restore_network(files, plan, factories), device)


def restore_network(files: RunFiles, plan: Plan, factories: Collection[str]) -> nn.Module:
    """Return a run's final network on the CPU, built by its factory.

    Raises `RunError` if its model is damaged or needs settings of a later version. Raises `ModelError` if the weights
    do not match the plan's network, or if the task does not allow its factory.
    """
    check_known(plan)
    factory.check_factory_allowed(plan.task.model, factories)
    network = factory.build_network(plan.task.model, len(plan.dataset.classes), plan.task.data.image_size, seed=0)
    try:
        network.load_state_dict(files.weights())
    except RuntimeError as error:
        first, *more = [line.strip(" \t.") for line in str(error).splitlines()[1:]] or [str(error)]
        others = f", and {pluralize(len(more), 'other difference')}" if more else ""
        raise ModelError(
            f"the weights of {plan.run_id} do not match the network {plan.task.model.name}: {first}{others}: restore "
            "the code or the package versions that the run was trained with, and give a changed network another name"
        ) from error
    return network


def _by_class(right: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the accuracy of each class that has test samples, by name."""
    counts = torch.bincount(labels, minlength=len(classes))
    hits = torch.bincount(labels[right], minlength=len(classes))
    return {name: int(hit) / int(count) for name, hit, count in zip(classes, hits, counts, strict=True) if count}
