"""Convert an ended run to the form that trackers need: settings, a summary, and a curve."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from retrain.config.fields import identity
from retrain.records import Plan, Point, RunRecord
from retrain.store.base import Missing
from retrain.store.runs import RunFiles


class Figure(NamedTuple):
    """One value of a curve, with its name and iteration."""

    name: str
    value: float
    iteration: int


CLASS_WEIGHTS = "training.class_weights"
"""The setting whose keys are class names. It stays one value, because MLflow refuses some characters in names."""


def settings_of(plan: Plan) -> dict[str, str]:
    """Return the settings that determine a run's training, by dotted names such as `training.batch_size`."""
    own: dict[str, object] = {"method": plan.method, "purpose": plan.purpose, "seed": plan.seed, "metric": plan.metric}
    own |= {"iterations": plan.iterations, "parent": plan.parent, "drops": len(plan.dataset.drops)}
    own |= {"classes": len(plan.dataset.classes), "dataset": plan.dataset.digest}
    recipe = plan.recipe.model_dump(mode="json")
    return {name: str(value) for name, value in _flatten({**own, **identity(plan.task), "recipe": recipe})}


def _flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value and prefix + name != CLASS_WEIGHTS:
            yield from _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value


def summary_of(record: RunRecord) -> dict[str, float]:
    """Return the summary of a run: values by name. Missing values are left out."""
    result, evaluation, savings = record.result, record.evaluation, record.savings
    figures: dict[str, float | None] = {"target": record.target.accuracy if record.target else None}
    if result:
        figures |= {"val/final_accuracy": result.final_accuracy, "val/final_score": result.final_score}
        figures |= {f"L_{level}": value for level, value in result.speed_up.items()}
        figures |= {"iterations": result.iterations, "device_seconds": result.cost.device_seconds_all_in}
    if evaluation:
        figures |= {"test/accuracy": evaluation.accuracy, "test/score": evaluation.score}
        figures |= {"test/old": evaluation.old, "test/new": evaluation.new}
    if savings:
        figures |= {"saved/gross": savings.gross, "saved/net": savings.net}
        figures |= {"saved/whole_gross": savings.gross_whole, "saved/whole_net": savings.net_whole}
    return {name: float(value) for name, value in figures.items() if value is not None}


def figures_of(files: RunFiles) -> Iterator[Figure]:
    """Yield the values of an ended run's curve, evaluation by evaluation. Yield nothing if the run has no curve."""
    try:
        points = files.curve().points
    except Missing:
        return
    for point in points:
        yield from (Figure(name, value, point.iteration) for name, value in _named(point).items() if value is not None)


def _named(point: Point) -> dict[str, float | None]:
    return {
        "val/accuracy": point.accuracy,
        "val/score": point.score,
        "val/loss": point.loss,
        "train/loss": point.train_loss,
        "train/accuracy": point.train_accuracy,
        "learning_rate": point.learning_rate,
    }
