"""Rows of the head (the last layer) for new classes, computed from the parent's features of their training samples."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retrain.config.recipe import Initialization, ShrinkPerturb, Warm
from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.models.factory import to_device_channels_last
from retrain.recipe.initialization import class_mean_rows, find_head, warm_start
from retrain.records import Plan
from retrain.training.seeds import fresh_network, make_generator

EACH = 256
"""Largest number of samples of a new class whose features are averaged. More would hardly change the mean."""

OLD = 1000
"""Largest number of old samples whose features are averaged."""

BATCH = 128
"""Images in a forward pass."""


class GrownHead(NamedTuple):
    """A parent's weights with rows for new classes, and the number of images used to compute them."""

    weights: Mapping[str, Tensor]
    images: int


def grow_head(plan: Plan, parent: Mapping[str, Tensor], train: Samples, normalize: Normalize) -> GrownHead:
    """Return the parent's weights with rows for new classes, if the plan's initialization sets `class_means`.

    The weights are returned unchanged if there is no new class, if the last layer is not linear or its input is not a
    vector, or if new rows are newly initialized. Raises `ModelError` if the parent's weights do not fit the network.
    """
    if not _asks_for_means(plan.recipe.initialization):
        return GrownHead(parent, 0)
    network = fresh_network(plan)
    head = find_head(network)
    if head is None:
        return GrownHead(parent, 0)
    warm_start(network, parent)
    name, layer = head
    prefix = f"{name}." if name else ""
    old_rows, old_bias = parent[f"{prefix}weight"], parent.get(f"{prefix}bias")
    if layer.out_features == len(old_rows):
        return GrownHead(parent, 0)
    chosen = _choose(train.labels.cpu(), len(old_rows), layer.out_features, plan.seed)
    features = compute_features(to_device_channels_last(network, train.device), layer, train, chosen, normalize)
    if features is None:
        return GrownHead(parent, 0)
    means, counts = _average(features, train.labels.cpu()[chosen], len(old_rows), layer.out_features)
    rows, biases = class_mean_rows(means[1:], counts[1:], means[0], old_rows.cpu(), _on_cpu(old_bias))
    grown = dict(parent) | {f"{prefix}weight": torch.cat([old_rows.cpu(), rows.to(old_rows.dtype)])}
    if biases is not None and old_bias is not None:
        grown[f"{prefix}bias"] = torch.cat([old_bias.cpu(), biases.to(old_bias.dtype)])
    return GrownHead(grown, len(chosen))


def _asks_for_means(setting: Initialization) -> bool:
    match setting:
        case Warm(head_rows=rows) | ShrinkPerturb(new_rows=rows):
            return rows == "class_means"
        case _:
            return False


def _choose(labels: Tensor, old_classes: int, classes: int, seed: int) -> Tensor:
    """Return random samples, int64: at most `EACH` of every new class, and at most `OLD` of all old ones.

    They are sorted, so that a stream reads each shard once.
    """
    order = torch.randperm(len(labels), generator=make_generator(seed, "head rows"))
    group = _groups(labels[order], old_classes)
    by_group = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=classes - old_classes + 1)
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    most = torch.where(group[by_group] > 0, EACH, OLD)
    return order[by_group[rank < most]].sort().values


def _groups(labels: Tensor, old_classes: int) -> Tensor:
    """Return 0 for the labels of old classes, and 1, 2, ... for the labels of new ones."""
    return (labels - old_classes + 1).clamp(min=0)


def _average(features: Tensor, labels: Tensor, old_classes: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean feature of all old classes together and of every new class, and their numbers of samples."""
    groups = _groups(labels, old_classes)
    counts = torch.bincount(groups, minlength=classes - old_classes + 1)
    sums = torch.zeros(len(counts), features.shape[1]).index_add_(0, groups, features)
    return sums / counts.clamp(min=1).unsqueeze(1), counts


@torch.no_grad()
def compute_features(
    network: nn.Module, layer: nn.Linear, train: Samples, chosen: Tensor, normalize: Normalize
) -> Tensor | None:
    """Return the head's input for each chosen sample, float32 [N, F] on the CPU. None if it is not a vector."""
    network.eval()
    found = []
    with _capture_inputs(layer) as inputs:
        for rows in torch.split(chosen, BATCH):
            images = normalize(train.pixels(rows.to(train.device)))
            with torch.autocast(images.device.type, torch.bfloat16, enabled=normalize.bf16):
                network(images)
            if len(inputs) != 1 or inputs[0].ndim != 2:
                return None
            found.append(inputs.pop().float().cpu())
    return torch.cat(found)


@contextmanager
def _capture_inputs(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Yield a list to which every call of the layer adds its input."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def _on_cpu(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.cpu()
