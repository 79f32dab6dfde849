"""Measures of a run besides its accuracy, from its initial weights and its final model.

A sample is old if the run's parent was trained on its drop. All other samples are new.
"""

import json
from collections.abc import Callable, Iterable, Iterator

import torch

from retrain.experiments.kept_runs import GRADIENTS, LEARNING_MAP, MAP, Measure
from retrain.experiments.replays import early_and_even, repeat_training
from retrain.experiments.runs import MEASURES_FILE, read_measures
from retrain.pipeline.context import Context
from retrain.pipeline.train import prepare
from retrain.recipe.analysis import gradient_norms, rank_correlation, weight_correlation
from retrain.recipe.learning_speed import add_decayed, joint_shares, learning_speed
from retrain.records import Plan
from retrain.training.evaluation import evaluate_samples
from retrain.training.index_files import read_counters
from retrain.training.optimizers import trained_parameters
from retrain.training.seeds import make_generator
from retrain.training.setup import Run

SAMPLES = 512
"""Number of old samples, and of new samples, whose gradients are measured."""

BINS = 10
"""Rows and columns of a map of learning speeds."""

SAMPLE_BINS = 100
"""Groups of samples in a map of samples by epoch."""


def correlation(context: Context, run: Run) -> Iterator[tuple[str, Measure]]:
    """Yield the correlation of final with initial weights (Ash & Adams, figure 5)."""
    initial, final = trained_parameters(run.network), context.files(run.plan.run_id).weights()
    yield "correlation of weights", weight_correlation(initial.values(), [final[name] for name in initial])


def gradients(context: Context, run: Run) -> Iterator[tuple[str, Measure]]:
    """Yield the mean norms of the gradients of old and new samples, at the start and at the end."""
    for when, weights in (("start", None), ("end", context.files(run.plan.run_id).weights())):
        if weights:
            run.network.load_state_dict(weights)
        for age, norm in mean_gradient_norms(run).items():
            yield f"gradient norm, {age}, {when}", norm


def mean_gradient_norms(run: Run) -> dict[str, float]:
    """Return the mean norms of the gradients of `SAMPLES` random old samples and of `SAMPLES` random new samples."""
    old = run.train.drop < run.plan.known
    found = {}
    for age, chosen in (("old", old), ("new", ~old)):
        indices = chosen.nonzero().squeeze(1)
        if len(indices):
            order = torch.randperm(len(indices), generator=make_generator(run.plan.seed, "measured"))
            some = indices[order[:SAMPLES].to(indices.device)]
            norms = gradient_norms(run.network, run.normalize(run.train.pixels(some)), run.train.labels[some])
            found[age] = float(norms.mean())
    return found


def speeds(context: Context, run: Run) -> Iterator[tuple[str, Measure]]:
    """Yield the rank correlation of old samples' learning speeds in the previous and this run, and a map of both."""
    plan = run.plan
    if plan.parent is None or not plan.known:
        return
    parent = read_counters(context.files(plan.parent), plan.dataset, plan.known)
    kept = read_counters(context.files(plan.run_id), plan.dataset, len(plan.dataset.drops))
    own = add_decayed(parent, kept, -plan.task.training.index_decay)  # the run's index includes its parent's
    old = (run.train.drop < plan.known).cpu()
    before, after = learning_speed(parent)[old], learning_speed(own)[old]
    seen = ~(before.isnan() | after.isnan())
    yield "rank correlation of learning speeds", rank_correlation(before[seen], after[seen])
    yield MAP, joint_shares(before, after, BINS).tolist()


def gradient_curves(context: Context, run: Run) -> Iterator[tuple[str, Measure]]:
    """Yield the norms of the gradients over the full training, as [iteration, norm] (Verwimp et al., figure 14)."""
    curves: dict[str, list[list[float]]] = {"old": [], "new": []}

    def measure_at(iteration: int) -> None:
        if iteration in early_and_even(run.plan.iterations):
            for age, norm in mean_gradient_norms(run).items():
                curves[age].append([iteration, float(f"{norm:.4g}")])

    repeat_training(run, measure_at)
    yield from ((f"{GRADIENTS}, {age}", curve) for age, curve in curves.items() if curve)


def learning_map(context: Context, run: Run) -> Iterator[tuple[str, Measure]]:
    """Yield the shares of samples that were classified correctly, a row per epoch (Verwimp et al., figure 11).

    A row has the shares of `SAMPLE_BINS` groups of samples. The groups are sorted from samples learnt first to samples
    learnt last.
    """
    each = len(run.train) / run.plan.task.training.batch_size
    ends = {round(each * epoch) for epoch in range(1, round(run.plan.iterations / each) + 1)}
    epochs: list[torch.Tensor] = []

    def measure_at(iteration: int) -> None:
        if iteration in ends:
            epochs.append(evaluate_samples(run.network, run.train, run.normalize)[0].float().cpu())

    repeat_training(run, measure_at)
    correct = torch.stack(epochs)
    order = correct.mean(0).argsort(descending=True, stable=True)
    groups = [group.mean(1) for group in correct[:, order].tensor_split(min(SAMPLE_BINS, correct.shape[1]), dim=1)]
    yield LEARNING_MAP, [[round(share, 4) for share in row] for row in torch.stack(groups, 1).tolist()]


ON_FIRST = {"gradient_curves", "learning_map"}
"""Measures that also apply to runs on the first drop. The other measures compare a run with the previous run."""

MEASURES: dict[str, Callable[[Context, Run], Iterator[tuple[str, Measure]]]] = {
    "weight_correlation": correlation,
    "gradient_norms": gradients,
    "learning_speed": speeds,
    "gradient_curves": gradient_curves,
    "learning_map": learning_map,
}


def measure(context: Context, plan: Plan, names: Iterable[str]) -> None:
    """Compute the missing measures of an ended run with a model, and write them to its folder."""
    found = read_measures(context.store, plan.run_id)
    missing = [name for name in names if name not in found]
    for name in missing:
        found[name] = dict(MEASURES[name](context, prepare(context, plan)))
    if missing:
        context.store.objects.write(context.store.keys.run(plan.run_id, MEASURES_FILE), json.dumps(found).encode())
