"""Run a study: whatever of its grid has not run yet, in this process or in several."""

import logging
from collections import deque
from functools import partial
from itertools import chain

from retrain.errors import StudyError
from retrain.layout import Layout
from retrain.records import Plan
from retrain.run_records import RunRecords
from retrain.study.active import land_next
from retrain.study.grid import Cell, cells, parts_of
from retrain.study.landing import Root, land
from retrain.study.runs import Runs
from retrain.study.workers import Each, Workers, carry_out, measure, staff

log = logging.getLogger("retrain")


def run(runs: Runs, root: Root, workers: Workers) -> int:
    """Land the drops and run every cell that has not run; return how many there were.

    It can be stopped at any moment and run again: what has ended is not repeated, and what was under way goes on.
    Raises `StudyError` if a data set is not at hand.
    """
    with staff(workers) as each:
        grids = (list(cells(runs.study, drops)) for drops in range(1, _longest(runs) + 1))
        return sum(_run(runs, root, grid, each, workers.device) for grid in grids)


def plan_ahead(runs: Runs, root: Root) -> list[list[Plan]]:
    """Land the drops and keep the plans of all cells that have not run, by the number of drops that they train on.

    Raises `StudyError` if a data set is not at hand, or if what lands depends on how runs will have ended.
    """
    splits = runs.study.splits
    if chosen := next((name for name, split in splits.items() if split.by == "margin"), None):
        raise StudyError(f"split {chosen}: what lands is chosen by models that are not trained yet; run it --on here")
    for cell in cells(runs.study, 1):
        land(runs.study, cell.split, runs.task(cell), runs.store, root)
    runs.forget()
    levels = [_to_do(runs, drops) for drops in range(1, _longest(runs) + 1)]
    for plan in chain.from_iterable(levels):
        RunRecords(runs.store, Layout(plan.task.name), plan.run_id).write_plan(plan)
    return [level for level in levels if level]


def _to_do(runs: Runs, drops: int) -> list[Plan]:
    plans = (runs.plan(cell) for cell in cells(runs.study, drops) if runs.record(cell) is None)
    return list({plan.run_id: plan for plan in plans}.values())


def _longest(runs: Runs) -> int:
    return max(parts_of(runs.study, split) for split in runs.study.splits)


def _run(runs: Runs, root: Root, grid: list[Cell], each: Each, device: str) -> int:
    """Run the cells of one number of drops, none of which depends on another."""
    for cell in grid:
        land(runs.study, cell.split, runs.task(cell), runs.store, root)
        if runs.study.splits[cell.split].by == "margin":
            land_next(runs, cell, root, device)
    runs.forget()
    plans = {plan.run_id: plan for plan in map(runs.plan, filter(runs.can_start, grid))}
    part = f"part {grid[0].drops} of {_longest(runs)}"
    log.info("%s, %s, runs to do: %d of %d", runs.study.name, part, len(plans), len(grid))
    deque(each(carry_out, plans.values()), maxlen=0)
    runs.forget()
    if runs.study.measures and grid[0].drops > 1:
        ended = {plan.run_id: plan for plan in map(runs.plan, filter(runs.left_model, grid))}
        deque(each(partial(measure, names=runs.study.measures), ended.values()), maxlen=0)
    return len(plans)
