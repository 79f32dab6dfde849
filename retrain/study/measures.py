"""What is measured of a run beside its accuracy, from where it started and the model it ended with."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from retrain.attempt import prepare
from retrain.context import Context
from retrain.layout import Layout
from retrain.recipe.correlation import weight_correlation
from retrain.recipe.sample_gradients import gradient_norms
from retrain.records import Plan
from retrain.store.base import Missing, Store
from retrain.training.gradients import trained_parameters
from retrain.training.seeds import generator
from retrain.training.setup import Run

SAMPLES = 512
"""Old, and as many new, samples whose gradients are measured."""

Figures = dict[str, float]


def correlation(run: Run, final: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield the correlation of final with initial weights (Ash & Adams, figure 5)."""
    initial = trained_parameters(run.network)
    yield "correlation of weights", weight_correlation(initial.values(), [final[name] for name in initial])


def gradients(run: Run, final: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield the mean norms of the gradients of old and new samples, at the start and at the end."""
    old = run.train.drop < run.plan.known
    for when, weights in (("start", None), ("end", final)):
        if weights:
            run.network.load_state_dict(weights)
        for age, chosen in (("old", old), ("new", ~old)):
            indices = chosen.nonzero().squeeze(1)
            lots = torch.randperm(len(indices), generator=generator(run.plan.seed, "measured"))[:SAMPLES]
            some = indices[lots.to(indices.device)]
            norms = gradient_norms(run.network, run.normalize(run.train.images[some]), run.train.labels[some])
            yield f"gradient norm, {age}, {when}", float(norms.mean())


MEASURES: dict[str, Callable[[Run, Mapping[str, Tensor]], Iterator[tuple[str, float]]]] = {
    "weight_correlation": correlation,
    "gradient_norms": gradients,
}


def measure(context: Context, plan: Plan, names: Iterable[str]) -> None:
    """Measure what has not been measured of an ended run that left a model, and keep the figures beside it."""
    found = _read(context.store, context.layout, plan.run_id)
    missing = [name for name in names if name not in found]
    for name in missing:
        found[name] = dict(MEASURES[name](prepare(context, plan), context.files(plan.run_id).weights()))
    if missing:
        context.store.write(_key(context.layout, plan.run_id), json.dumps(found).encode())


def read(store: Store, layout: Layout, run_id: str) -> Figures:
    """Return what has been measured of a run."""
    return {name: value for figures in _read(store, layout, run_id).values() for name, value in figures.items()}


def _read(store: Store, layout: Layout, run_id: str) -> dict[str, Figures]:
    try:
        figures: dict[str, Figures] = json.loads(store.read(_key(layout, run_id))[0])
    except Missing:
        return {}
    return figures


def _key(layout: Layout, run_id: str) -> str:
    return layout.run(run_id, "measures.json")
