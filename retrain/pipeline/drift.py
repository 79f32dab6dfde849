"""Measure whether a new drop's held-out images differ from the champion's held-out images.

The distance between the two sets of images is their maximum mean discrepancy, with a Gaussian kernel on the inputs of
the champion's last layer. A permutation test shows whether chance explains the distance (Gretton et al., "A Kernel
Two-Sample Test", JMLR 2012; Rabanser et al., "Failing Loudly", 2019). Drift causes a warning. With `trigger.drift:
run`, it also starts a run.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrain.config.task import Data, Task
from retrain.data.augment import Normalize
from retrain.data.dataset import choose_loading, make_dataset
from retrain.data.samples import Samples
from retrain.errors import ModelError, RunError, UserError
from retrain.pipeline.context import Context, make_context
from retrain.pipeline.evaluate import load_network
from retrain.recipe.initialization import find_head
from retrain.records import Dataset, Drift, Drop, Loading, Plan
from retrain.records.drift import LEVEL
from retrain.store.task_store import open_task_store
from retrain.training.head import compute_features
from retrain.training.seeds import make_generator

log = logging.getLogger("retrain")

MOST = 500
"""Largest number of images in each of the two sets. A shift that only more images would show is small."""
OLD_DROPS = 10
"""Number of drops from which the old images are taken: the newest drops that the champion was trained on."""
PERMUTATIONS = 999
"""Number of random permutations in the test."""


class Discrepancy(NamedTuple):
    """The distance between two sets of features, and the distance that chance rarely exceeds. See `Drift`."""

    distance: float
    chance: float
    p_value: float


def compare_features(old: Tensor, new: Tensor, generator: torch.Generator) -> Discrepancy:
    """Return the squared maximum mean discrepancy of features [N, F] and [M, F], with the permutation test's result.

    The kernel's width is the median distance between the features of two images.
    """
    both = torch.cat([old, new]).double()
    squared = torch.cdist(both, both).square()
    median = squared[torch.triu(torch.ones_like(squared, dtype=torch.bool), 1)].median()
    kernel = torch.exp(-squared / median.clamp(min=torch.finfo(torch.double).tiny))
    weights = torch.cat([torch.full((len(old),), 1 / len(old)), torch.full((len(new),), -1 / len(new))]).double()
    orders = torch.stack([torch.randperm(len(both), generator=generator) for _ in range(PERMUTATIONS)])
    samples = torch.cat([weights[None], weights[orders]])
    distances = ((samples @ kernel) * samples).sum(1)
    observed, permuted = distances[0], distances[1:]
    as_far = int((permuted >= observed).sum())
    chance = permuted.topk(round(LEVEL * (PERMUTATIONS + 1)) - 1).values[-1]
    return Discrepancy(float(observed), float(chance), (1 + as_far) / (1 + PERMUTATIONS))


def measure_drifts(context: Context, task: Task) -> list[Drift]:
    """Return the drift of every drop that waits for a run. Measure and store each drift that is not stored yet.

    Raises `RunError` if there is no champion, `ModelError` if the champion's features cannot be compared, and
    `DamagedDrop` for a damaged drop.
    """
    store = context.store
    champion = store.champion.read().run_id
    if champion is None:
        raise RunError(
            f"task {task.name} has no champion yet, and drift is measured with the champion's features: train one "
            "with `retrain run`"
        )
    plan = context.files(champion).plan()
    trained = {ref.id for ref in plan.dataset.drops}
    waiting = [drop for drop in store.drops.readable() if drop.id not in trained]
    measured = store.drifts.of(champion)
    if unmeasured := [drop for drop in waiting if drop.id not in measured and _held_out(drop)]:
        _measure(context, plan, task, unmeasured)
        measured = store.drifts.of(champion)
    return [measured[drop.id] for drop in waiting if drop.id in measured]


def _held_out(drop: Drop) -> int:
    return drop.samples("val") + drop.samples("test")


def _measure(context: Context, champion: Plan, task: Task, drops: Sequence[Drop]) -> None:
    features = _FeatureReader(context, champion)
    known = Dataset(drops=champion.dataset.drops[-OLD_DROPS:], classes=champion.dataset.classes)
    old = features.of(known, champion.loading)
    if not len(old):
        raise RunError(f"champion {champion.run_id} has no held-out images, so drops cannot be compared with them")
    for drop in drops:
        dataset = make_dataset([drop], champion.dataset.classes)
        new = features.of(dataset, choose_loading(task, dataset))
        found = compare_features(old, new, make_generator(champion.seed, f"drift of {drop.id}"))
        drift = Drift(
            drop=drop.id,
            run_id=champion.run_id,
            old=len(old),
            new=len(new),
            measured_at=context.clock(),
            **found._asdict(),
        )
        context.store.drifts.keep(drift)


class _FeatureReader:
    """A reader that computes a champion's features of held-out images."""

    def __init__(self, context: Context, champion: Plan) -> None:
        self._context, self._champion = context, champion
        self._network = load_network(context.files(champion.run_id), champion, context.factories, context.device)
        self._normalize = Normalize(self._data, champion.task.training.bf16)
        self._head = find_head(self._network)

    @property
    def _data(self) -> Data:
        return self._champion.task.data

    def of(self, dataset: Dataset, loading: Loading) -> Tensor:
        """Return the features, float32 [N, F], of at most `MOST` of a dataset's validation and test images."""
        splits = self._context.samples(dataset, ("val", "test"), self._data, loading)
        generator = make_generator(self._champion.seed, f"drift of {dataset.digest}")
        chosen = torch.randperm(sum(map(len, splits.values())), generator=generator)[:MOST]
        found, first = [], 0
        for samples in splits.values():
            rows = chosen[(chosen >= first) & (chosen < first + len(samples))] - first
            first += len(samples)
            if len(rows):
                found.append(self._compute(samples, rows))
        return torch.cat(found) if found else torch.empty(0, 1)

    def _compute(self, samples: Samples, rows: Tensor) -> Tensor:
        features = self._head and compute_features(self._network, self._head[1], samples, rows, self._normalize)
        if features is None:
            raise ModelError(
                f"drift is measured on the input of a linear last layer, and {self._champion.task.model.name} has no "
                "such layer: set trigger.drift to ignore"
            )
        return features


def try_measure_drifts(context: Context, task: Task) -> None:
    """Measure the drift of the waiting drops if there is a champion. Log new measurements, and log errors."""
    champion = context.store.champion.read().run_id
    if champion is None:
        return
    known = context.store.drifts.of(champion)
    try:
        for drift in measure_drifts(context, task):
            if drift.drop not in known:
                log.info("%s: %s", task.name, drift)
    except UserError as error:
        log.warning("%s: the drift of the waiting drops is not measured: %s", task.name, error)


def measure_task(task: Task) -> None:
    """Measure the drift of the waiting drops for the watcher, in a separate process on the CPU.

    The measurement does not use the GPU, because a training process may need all of its memory.
    """
    try_measure_drifts(make_context(open_task_store(task), task, "cpu"), task)
