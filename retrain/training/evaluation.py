"""Evaluate a network: its predictions, accuracy, score and loss on samples."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain.config import Metric
from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.training.distributed import SINGLE_PROCESS, ProcessGroup
from retrain.training.energy import EnergyMeter
from retrain.training.groups import Groups
from retrain.training.progress import Stopwatch
from retrain.training.scores import TOP, Predictions, compute_score
from retrain.training.seeds import make_generator
from retrain.training.setup import Run
from retrain.training.stopping import rejection_risk, subset_ends, tail_probability

CHUNK, GPU_CHUNK = 128, 512
"""Number of images in a forward pass. On the CPU, it equals the usual size of training batches: evaluations then reuse
the memory that these batches free. On a GPU it is larger, because the CPU could not launch smaller passes fast
enough."""

ROUNDING = 1e-6
"""Tolerance when an accuracy is compared with the needed accuracy. The needed accuracy is a product of floats, and
equal accuracies must pass."""


class MeasuredScores(NamedTuple):
    """Accuracy, score and mean loss over the first `images` of the samples.

    `in_scope` and `newest` are the scores of the two groups of samples (`Groups`). They are None if the group is empty,
    or if not all samples were evaluated. `in_scope` and `scope_among_all` are for the same samples: for `in_scope` the
    network chooses among the scope's classes, and for `scope_among_all` among all classes. `standard_error` is the
    error of the score. It is None if the score is a share of the images, because its error is then binomial.
    """

    accuracy: float
    loss: float
    images: int
    score: float
    standard_error: float | None = None
    in_scope: float | None = None
    scope_among_all: float | None = None
    newest: float | None = None


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def _logits(network: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
    images = normalize(images)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=normalize.bf16):
        logits: Tensor = network(images)
    return logits


def measure(
    network: nn.Module,
    samples: Samples,
    order: Tensor,
    normalize: Normalize,
    needed: float,
    ranks: ProcessGroup = SINGLE_PROCESS,
    early: bool = False,
    groups: Groups | None = None,
) -> MeasuredScores:
    """Measure accuracy and loss over samples[order], and stop early if the accuracy is unlikely to reach `needed`.

    `order` [N] must be a random order that was drawn before the network was trained. A result with fewer than N images
    means that the accuracy over all N is below `needed`. The probability that this is wrong is at most `RISK`. If
    `early`, it is at most `EARLY_RISK` at each check. (`stopping` defines both.) Several processes share the work and
    get the same result.
    """
    groups = groups or Groups.none()
    total, enough = len(order), math.ceil(needed * len(order) - ROUNDING)
    ends = list(subset_ends(total)) if enough > 0 else [total]
    sums = [0.0] * 5
    with _eval_mode(network):
        for seen, end in pairwise((0, *ends)):
            for chunk in torch.split(order[seen:end], _chunk(order.device)):
                own = chunk[ranks.rows(len(chunk)).at]
                counts = ranks.sum_over_ranks(_counts(network, samples, own, normalize, groups)).tolist()
                sums = [one + more for one, more in zip(sums, counts, strict=True)]
            if end < total and tail_probability(int(sums[0]), end, enough, total) <= rejection_risk(early, len(ends)):
                break
    right, loss, right_in_scope, scope_right, right_newest = sums
    if end < total:
        return MeasuredScores(right / end, loss / end, end, score=right / end)
    return MeasuredScores(
        accuracy=right / end,
        loss=loss / end,
        images=end,
        score=right / end,
        in_scope=right_in_scope / groups.scope_size if groups.scope_size else None,
        scope_among_all=scope_right / groups.scope_size if groups.scope_size else None,
        newest=right_newest / groups.newest_size if groups.newest_size else None,
    )


def _counts(network: nn.Module, samples: Samples, indices: Tensor, normalize: Normalize, groups: Groups) -> Tensor:
    """Return the number of correct samples, the sum of losses, and the number correct in each group, float64 [5].

    The scope has two numbers: correct if the network chooses among the scope's classes, and correct if it chooses
    among all classes.
    """
    counts = torch.zeros(5, dtype=torch.float64, device=indices.device)
    if not len(indices):  # some networks fail on an empty batch
        return counts
    logits, labels = _logits(network, samples.pixels(indices), normalize).float(), samples.labels[indices]
    right = logits.argmax(1) == labels
    counts[0] = right.sum()
    counts[1] = functional.cross_entropy(logits, labels, reduction="sum")
    if groups.scope is not None:
        counts[2] = (groups.scope[indices] & (logits[:, : groups.classes].argmax(1) == labels)).sum()
        counts[3] = (groups.scope[indices] & right).sum()
    if groups.newest is not None:
        counts[4] = (groups.newest[indices] & right).sum()
    return counts


def measure_score(
    network: nn.Module,
    samples: Samples,
    metric: Metric,
    normalize: Normalize,
    ranks: ProcessGroup = SINGLE_PROCESS,
    groups: Groups | None = None,
) -> MeasuredScores:
    """Measure accuracy, score and loss over all samples.

    Several processes share the work and get the same result.
    """
    groups = groups or Groups.none()
    labels, parts = samples.labels, []
    with _eval_mode(network):
        for chunk in torch.split(torch.arange(len(labels), device=labels.device), _chunk(labels.device)):
            rows = ranks.rows(len(chunk))
            columns = _predict_columns(network, samples, chunk[rows.at], normalize, groups.classes)
            parts.append(torch.stack(ranks.gather_batch(rows, *columns)))
    losses, likeliest, in_top, likeliest_in_scope, in_top_in_scope = torch.cat(parts, dim=1)
    predictions = Predictions(likeliest.long(), in_top.bool())
    within = Predictions(likeliest_in_scope.long(), in_top_in_scope.bool())

    def score_group(mask: Tensor | None, of: Predictions) -> float | None:
        if mask is None or not mask.any():
            return None
        return compute_score(metric, labels[mask], of.select(mask)).value

    score = compute_score(metric, labels, predictions)
    return MeasuredScores(
        accuracy=float((predictions.likeliest == labels).double().mean()),
        loss=float(losses.double().mean()),
        images=len(labels),
        score=score.value,
        standard_error=score.standard_error,
        in_scope=score_group(groups.scope, within),
        scope_among_all=score_group(groups.scope, predictions),
        newest=score_group(groups.newest, predictions),
    )


def _predict_columns(
    network: nn.Module, samples: Samples, indices: Tensor, normalize: Normalize, classes: int | None
) -> Tensor:
    """Return loss, most likely class, and whether the label is among the `TOP` most likely classes, float32 [5, N].

    The last two rows are like the second and third row, but only for the first `classes` classes (the target's scope).
    If `classes` is None, they are for all classes.
    """
    if not len(indices):  # some networks fail on an empty batch
        return torch.zeros(5, 0, device=indices.device)
    logits, labels = _logits(network, samples.pixels(indices), normalize).float(), samples.labels[indices]
    losses, inside = functional.cross_entropy(logits, labels, reduction="none"), logits[:, :classes]
    return torch.stack(
        [losses, logits.argmax(1), _in_top(logits, labels), inside.argmax(1), _in_top(inside, labels)]
    ).float()


def _in_top(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each label is among the `TOP` most likely classes, bool [N]."""
    return (logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]).any(1)


def compute_logits(network: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
    """Return the logits, float32 [N, K], of images, uint8 [N, 3, size, size]."""
    with _eval_mode(network):
        return torch.cat(
            [_logits(network, some, normalize).float() for some in torch.split(images, _chunk(images.device))]
        )


def evaluate_samples(network: nn.Module, samples: Samples, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """Return whether each sample is classified correctly, bool [N], and its loss, [N]."""
    with _eval_mode(network):
        labels = torch.split(samples.labels, _chunk(samples.device))
        found = [
            _check_labels(_logits(network, images, normalize).float(), own)
            for images, own in zip(_chunks(samples), labels, strict=True)
        ]
    correct, losses = zip(*found, strict=True)
    return torch.cat(correct), torch.cat(losses)


def _check_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits.argmax(1) == labels, functional.cross_entropy(logits, labels, reduction="none")


def predict_classes(network: nn.Module, samples: Samples, normalize: Normalize) -> tuple[Tensor, Tensor, Tensor]:
    """Return a network's predictions for N samples, on their device.

    The predictions are the most likely class, int64 [N], its probability, float32 [N], and the `TOP` most likely
    classes, int64 [N, TOP]. A network with fewer than `TOP` classes returns all its classes.
    """
    with _eval_mode(network):
        found = [_likeliest(_logits(network, images, normalize).float()) for images in _chunks(samples)]
    classes, probabilities, top = zip(*found, strict=True)
    return torch.cat(classes), torch.cat(probabilities), torch.cat(top)


def predict_probabilities(network: nn.Module, samples: Samples, rows: Tensor, normalize: Normalize) -> Tensor:
    """Return the probabilities of all C classes for some samples, float32 [len(rows), C], on their device."""
    with _eval_mode(network):
        found = [
            _logits(network, samples.pixels(some), normalize).float().softmax(1)
            for some in torch.split(rows, _chunk(samples.device))
        ]
    return torch.cat(found)


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    classes = logits.argmax(1)
    probabilities = logits.softmax(1).gather(1, classes[:, None])[:, 0]
    return classes, probabilities, logits.topk(min(TOP, logits.shape[1])).indices


def _chunks(samples: Samples) -> Iterator[Tensor]:
    rows = torch.arange(len(samples), device=samples.pixels_on)
    return (samples.pixels(some) for some in torch.split(rows, _chunk(samples.device)))


def _chunk(device: torch.device) -> int:
    return GPU_CHUNK if device.type == "cuda" else CHUNK


def count_exactly(run: Run) -> None:
    """Classify each training sample once, without augmentation and in evaluation mode, and count the results.

    With several processes, each process counts all samples and gets the same counts.
    """
    run.ranks.sync_buffers(run.network)
    correct, losses = evaluate_samples(run.network, run.train, run.normalize)
    run.counters.count(torch.arange(len(correct), device=correct.device), correct, losses)
    run.progress.evaluated_images += len(correct)


TRAIN_SAMPLES = 2000
"""Number of training samples for the training accuracy. Its standard error is then at most 1.1 points."""


def measure_train_accuracy(run: Run) -> float:
    """Return the accuracy of the run's final model on random training samples, without augmentation.

    The time and images of this evaluation are added to the run's cost.
    """
    chosen = torch.randperm(len(run.train), generator=make_generator(run.plan.seed, "train accuracy"))[:TRAIN_SAMPLES]
    chosen = chosen.sort().values.to(run.train.device)  # a stream then reads each shard once
    with Stopwatch(run.progress, EnergyMeter(run.train.device)).aside("evaluation"):
        measured = measure(run.average.network(), run.train, chosen, run.normalize, needed=0.0)
    run.progress.evaluated_images += measured.images
    return measured.accuracy
