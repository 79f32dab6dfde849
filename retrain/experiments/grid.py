"""The grid of a study: its cells, and the task and recipe of each cell."""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from retrain.config import Method as MethodName
from retrain.config.loading import Override, load_task
from retrain.config.recipe import recipe_for
from retrain.config.task import Task
from retrain.experiments.settings import Method, Settings, Study
from retrain.models.pretrained import resolve_task
from retrain.records import digest

FIRST = "(first drop)"
"""The method name of the runs on the first drop. All methods continue from these runs."""


class Cell(NamedTuple):
    """One run of a method on the first `drops` drops of a split. Its parent, if any, is the run on one drop fewer."""

    variant: str
    split: str
    method: str
    drops: int
    seed: int


def cells(study: Study, drops: int) -> Iterator[Cell]:
    """Yield the cells that train on this many drops. On the first drop, all methods share one cell."""
    methods = {FIRST: Method(start="scratch")} if drops == 1 else study.methods
    for variant, split, method in product(study.variants, study.splits, methods):
        if drops <= study.count_drops(split):
            yield from (Cell(variant, split, method, drops, seed) for seed in study.seeds[: methods[method].seeds])


def most_drops(study: Study) -> int:
    """Return the number of drops of the longest split."""
    return max(study.count_drops(split) for split in study.splits)


def all_cells(study: Study) -> Iterator[Cell]:
    """Yield all cells of the grid, by number of drops."""
    for drops in range(1, most_drops(study) + 1):
        yield from cells(study, drops)


def parent_of(cell: Cell) -> Cell | None:
    """Return the cell whose run this cell's run continues from, or None for the first drop."""
    if cell.drops == 1:
        return None
    return cell._replace(drops=cell.drops - 1, method=FIRST if cell.drops == 2 else cell.method)


def drop_id(study: Study, cell: Cell) -> str:
    """Return the id of a cell's newest drop. In a split by margin, each variant, method and seed has separate drops."""
    if cell.drops == 1 or study.splits[cell.split].by != "margin":
        return f"drop-{cell.drops}"
    return f"drop-{cell.drops}-{digest([cell.variant, cell.method, cell.seed])[:8]}"


def drop_ids(study: Study, cell: Cell) -> list[str]:
    """Return the ids of a cell's drops, in order."""
    return [drop_id(study, cell._replace(drops=number)) for number in range(1, cell.drops + 1)]


def task_of(study: Study, cell: Cell, store: str | None) -> Task:
    """Return the cell's task, with the method's recipe, in `store` if that is given.

    Raises `TaskError` if an override is wrong.
    """
    method = study.methods.get(cell.method, Method(start="scratch"))
    task = resolve_task(load_task(study.task, _overrides(study, cell, store)))
    from_task: dict[str, Any] = {aspect: getattr(task.recipe, aspect) for aspect in method.aspects}
    recipe = recipe_for(method.start, task.recipe).model_copy(update=from_task)
    return task.model_copy(update={"name": data_name(study, cell.split, task), "recipe": recipe})


def _overrides(study: Study, cell: Cell, store: str | None) -> list[Override]:
    """Return the settings of a cell. A later group of settings replaces settings of the earlier groups."""
    variant = study.variants[cell.variant]
    groups: dict[str, Settings] = {"set": study.set, f"variants.{cell.variant}.set": variant.set}
    if cell.drops == 1:
        groups[f"variants.{cell.variant}.first"] = variant.first
    else:
        groups[f"methods.{cell.method}.set"] = study.methods[cell.method].set
    groups |= {"seeds": {"seed": cell.seed}, "store": {"store": store} if store else {}}
    chosen = {
        path: Override(tuple(path.split(".")), value, f"study {study.name}: {group}")
        for group, settings in groups.items()
        for path, value in settings.items()
    }
    return list(chosen.values())


def plan_method(study: Study, cell: Cell) -> MethodName:
    """Return the method of a cell's plan: continuous if the cell uses an aspect of the recipe, else `Method.start`."""
    method = study.methods.get(cell.method, Method(start="scratch"))
    return "continuous" if method.aspects else method.start


def data_name(study: Study, split: str, task: Task) -> str:
    """Return a name for a split's data. Studies with the same drops share the name, and so the drops and equal runs."""
    setting = study.splits[split].model_dump(exclude_none=True)
    content = [data.model_dump(exclude_defaults=True) for data in study.data], setting
    held_out = study.stop_on, task.data.val_share, task.data.test_share, *((task.seed,) if study.redraw else ())
    names = "-".join(data.name for data in study.data)
    sizes = study.splits[split].sizes.replace("+", "-")
    readable = "".join(letter if letter.isalnum() else "-" for letter in f"{names}-{sizes}".lower())
    return f"{readable[:40].strip('-')}-{digest([*content, *held_out])[:8]}"
