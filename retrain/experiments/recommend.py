"""Which method and schedule to use on a task: a small study on its own drops, within a budget."""

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import NamedTuple

from retrain.config.loading import load_task, parse_override
from retrain.config.task import Task
from retrain.errors import StudyError
from retrain.experiments.drops import DataRoot
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.page import table
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs
from retrain.experiments.settings import Method, Split, Study
from retrain.experiments.statistics import Row, estimate, groups, rows
from retrain.experiments.workers import Workers
from retrain.records import Drop
from retrain.store.task_store import open_task_store

SCALES = (1.0, 0.5, 0.25)
NAIVE = {"initialization": {"name": "warm"}, "objective": {"name": "none"}, "sampling": {"name": "uniform"}}


class Advice(NamedTuple):
    """What to use, why, and the fields of the task that say so."""

    method: str
    why: str
    settings: str


def make_study(task: str, budgeted: Task, seeds: int, overrides: Sequence[str] = ()) -> Study:
    """Return the study of scratch, naive and the task's recipe at three lengths, on the drops that have landed."""
    overridden = {".".join(path): value for path, value in map(parse_override, overrides)}
    recipe = {
        f"continuous x{scale:g}": Method(
            aspects=("initialization", "objective", "sampling", "schedule"), set={"recipe.schedule.scale": scale}
        )
        for scale in SCALES
    }
    return Study(
        name=f"recommend-{budgeted.name}"[:63].strip("-"),
        title=f"Which method for {budgeted.name}?",
        repeats=("no paper",),
        size="mini",
        regime="The task's own training, shortened to the budget.",
        task=task,
        set=overridden | {"training.epochs": budgeted.training.epochs},
        splits={"landed": Split(by="landed")},
        methods={"scratch": Method(start="scratch"), "naive": Method(), **recipe},
        seeds=tuple(range(budgeted.seed, budgeted.seed + seeds)),
    )


def passes(drops: Sequence[Drop], seeds: int) -> float:
    """Return how many passes over all data the study makes for each epoch of its task."""
    samples = _samples(drops)
    return seeds * (2 + sum(SCALES) + (samples - drops[-1].samples("train")) / samples)


def cost(task: Task, drops: Sequence[Drop], seeds: int, epochs: float) -> int:
    """Return how many iterations the study takes in all, where its task is trained for so many epochs."""
    return ceil(epochs * passes(drops, seeds) * _samples(drops) / task.training.batch_size)


def _samples(drops: Sequence[Drop]) -> int:
    return sum(drop.samples("train") for drop in drops)


def within_budget(task: Task, drops: Sequence[Drop], budget: int | None, seeds: int) -> Task:
    """Return the task with as many epochs as the budget (iterations, in all) allows, never more than it has itself.

    Without a budget the study takes what one training from scratch does. Raises `StudyError` if less than one pass
    over the data is left for each run.
    """
    each_pass = _samples(drops) / task.training.batch_size
    allowed = (budget / each_pass if budget else task.training.epochs) / passes(drops, seeds)
    if allowed < 1:
        given = f"a budget of {budget} iterations" if budget else "one training from scratch"
        least = cost(task, drops, seeds, 1)
        raise StudyError(f"{given} is too small to compare methods: --budget {least} is the least")
    epochs = min(task.training.epochs, allowed)
    return task.model_copy(update={"training": task.training.model_copy(update={"epochs": epochs})})


def advise(rows: Sequence[Row]) -> Advice:
    """Return the method that was as good as scratch soonest with every seed, or nearly as good, or else scratch."""
    for level in (100, 99):
        reached = {row.method: row.speed_ups["scratch"][level] for row in rows}
        own = reached.pop("scratch").mean or 1.0  # scratch reaches 99 percent before it is at its own accuracy
        sure = {method: each.mean for method, each in reached.items() if each.mean and each.n == each.of}
        best, ratio = max(sure.items(), key=lambda item: item[1], default=("", 0.0))
        if ratio > own:
            return Advice(
                best,
                f"it reached {level}% of scratch's accuracy {ratio / own:.2f} times as fast as scratch",
                _settings(best),
            )
    return Advice("scratch", "no method was as good as scratch any sooner", "baseline: {refresh: {every: 1}}")


def behind_best(rows: Sequence[Row]) -> str:
    """Say which methods ended below scratch, and by how many points."""
    finals = {row.method: row.final.mean for row in rows if row.final.mean is not None}
    points = {method: 100 * (final - finals["scratch"]) for method, final in finals.items()}
    found = [f"{method} ({each:.1f} points)" for method, each in points.items() if each < 0]
    return f"Ended below scratch: {', '.join(found)}." if found else "No method ended below scratch."


def _settings(method: str) -> str:
    """The lines of the task file that choose a method."""
    if method == "naive":
        parts = ", ".join(f"{aspect}: {{name: {kind['name']}}}" for aspect, kind in NAIVE.items())
        return f"recipe: {{{parts}, schedule: {{scale: 1}}}}"
    return f"recipe: {{schedule: {{scale: {method.rpartition('x')[2]}}}}}"


def length(task: Task, shortened: Task, drops: Sequence[Drop], seeds: int) -> str:
    """Say how long the trainings were and, where they were cut, what that means."""
    epochs, whole = shortened.training.epochs, task.training.epochs
    if epochs == whole:
        return f"Trained for the task's {whole:g} epochs."
    return (
        f"Trained for {epochs:.3g} of the task's {whole:g} epochs, and shorter trainings favour the naive start: "
        f"--budget {cost(task, drops, seeds, whole)} compares them at full length."
    )


def certainty(drops: Sequence[Drop], seeds: int, scratch: Sequence[EndedRun]) -> str:
    """Say below which size a difference of two accuracies means nothing."""
    images = sum(drop.samples("val") for drop in drops)
    accuracy = estimate([one.curve.points[-1].accuracy for one in scratch]).mean or 0.0
    error = 100 * sqrt(accuracy * (1 - accuracy) / images)
    return (
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; one accuracy on {images:,} val images has a standard error of "
        f"{error:.1f} points, and smaller differences mean nothing."
    )


def recommendation(name: str, budget: int | None, seeds: int, workers: Workers, overrides: Sequence[str] = ()) -> str:
    """Run the study within the budget and return its advice with the evidence, Markdown.

    Raises `StudyError` if there are fewer than two drops, or the budget is too small.
    """
    task = load_task(name, overrides)
    drops = open_task_store(task).drops.all()
    if len(drops) < 2:
        landed = "1 drop" if len(drops) == 1 else "no drop"
        raise StudyError(f"task {task.name} has {landed}; old and new ones are needed to compare methods")
    shortened = within_budget(task, drops, budget, seeds)
    runs = Runs(make_study(name, shortened, seeds, overrides), None)
    run(runs, DataRoot(Path()), workers)
    ((_, members),) = groups(runs.study, runs.ran()).items()
    found = rows(runs.study, members)
    advice = advise(found)
    scratch = [one for one in members if one.cell.method == "scratch"]
    return "\n\n".join(
        [
            f"Use {advice.method}: {advice.why}. {length(task, shortened, drops, seeds)}",
            f"In the task file: `{advice.settings}`",
            behind_best(found),
            table(runs.study, found),
            certainty(drops, seeds, scratch),
        ]
    )
