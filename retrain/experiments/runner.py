"""Run the missing cells of a study's grid, in this process or in several."""

import logging
from collections import deque
from functools import partial
from itertools import chain

from retrain.errors import StudyError
from retrain.experiments.active_learning import commit_next
from retrain.experiments.drops import DataRoot, commit_drops
from retrain.experiments.grid import Cell, cells, most_drops
from retrain.experiments.measures import ON_FIRST
from retrain.experiments.runs import Runs
from retrain.experiments.workers import RunEach, Workers, measure_run, run_free_trial, run_trial, worker_pool
from retrain.records import Plan

log = logging.getLogger("retrain")


def run(runs: Runs, root: DataRoot, workers: Workers) -> int:
    """Commit the drops, run every cell that has not run, and return the number of runs.

    A study can be stopped at any moment and run again. Ended runs are not repeated, and interrupted runs are resumed.
    Raises `StudyError` if a data set is missing.
    """
    _check_tasks(runs)
    with worker_pool(workers) as each:
        grids = (list(cells(runs.study, drops)) for drops in range(1, most_drops(runs.study) + 1))
        return sum(_run(runs, root, grid, each, workers.device) for grid in grids)


def plan_ahead(runs: Runs, root: DataRoot) -> list[list[Plan]]:
    """Commit the drops and write the plans of all cells that have not run. Return the plans by number of drops.

    Raises `StudyError` if a data set is missing, or if later drops depend on the results of runs.
    """
    splits = runs.study.splits
    if chosen := next((name for name, split in splits.items() if split.by == "margin"), None):
        raise StudyError(f"split {chosen}: its later drops depend on trained models; run the study with --on here")
    _check_tasks(runs)
    for cell in cells(runs.study, 1):
        commit_drops(runs.study, cell.split, runs.task(cell), runs.objects, root)
    runs.forget()
    levels = [_to_do(runs, drops) for drops in range(1, most_drops(runs.study) + 1)]
    for plan in chain.from_iterable(levels):
        runs.store(plan.task.name).run(plan.run_id).write_plan(plan)
    return [level for level in levels if level]


def _check_tasks(runs: Runs) -> None:
    """Raise `TaskError` if a setting of a method or variant is wrong, before any run starts."""
    one_seed = runs.study.model_copy(update={"seeds": runs.study.seeds[:1]})
    for cell in chain(cells(one_seed, 1), cells(one_seed, 2)):
        runs.task(cell)


def _to_do(runs: Runs, drops: int) -> list[Plan]:
    plans = (runs.plan(cell) for cell in cells(runs.study, drops) if runs.record(cell) is None)
    return list({plan.run_id: plan for plan in plans}.values())


def _startable(runs: Runs, grid: list[Cell]) -> list[Plan]:
    """Return the plans of the cells whose runs can start, read again from the store. Equal cells share a plan."""
    runs.forget()
    return list({plan.run_id: plan for plan in map(runs.plan, filter(runs.can_start, grid))}.values())


def _run(runs: Runs, root: DataRoot, grid: list[Cell], each: RunEach, device: str) -> int:
    """Run the cells with one number of drops. They do not depend on each other."""
    for cell in grid:
        if not runs.has_landed(cell):
            commit_drops(runs.study, cell.split, runs.task(cell), runs.objects, root)
        if runs.study.splits[cell.split].by == "margin":
            commit_next(runs, cell, root, device)
    plans = _startable(runs, grid)
    drop = f"drop {grid[0].drops} of {most_drops(runs.study)}"
    log.info("study %s, %s: %d of %d runs are missing", runs.study.name, drop, len(plans), len(grid))
    deque(each(run_free_trial, plans), maxlen=0)
    deque(each(run_trial, _startable(runs, grid)), maxlen=0)  # the runs that other processes are training
    runs.forget()
    wanted = tuple(name for name in runs.study.measures if grid[0].drops > 1 or name in ON_FIRST)
    if wanted:
        ended = {plan.run_id: plan for plan in map(runs.plan, filter(runs.has_model, grid))}
        deque(each(partial(measure_run, names=wanted), ended.values()), maxlen=0)
    return len(plans)
