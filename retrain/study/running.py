"""Run a study: whatever of its grid has not run yet, in this process or in several."""

import logging
from collections import deque
from functools import partial

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
    longest = max(parts_of(runs.study, split) for split in runs.study.splits)
    with staff(workers) as each:
        grids = (list(cells(runs.study, drops)) for drops in range(1, longest + 1))
        return sum(_run(runs, root, grid, each, workers.device) for grid in grids)


def _run(runs: Runs, root: Root, grid: list[Cell], each: Each, device: str) -> int:
    """Run the cells of one number of drops, none of which depends on another."""
    for cell in grid:
        land(runs.study, cell.split, runs.task(cell), runs.store, root)
        if runs.study.splits[cell.split].by == "margin":
            land_next(runs, cell, root, device)
    runs.forget()
    plans = {plan.run_id: plan for plan in map(runs.plan, filter(runs.can_start, grid))}
    log.info("%s: %d of %d runs to do on %d drops", runs.study.name, len(plans), len(grid), grid[0].drops)
    deque(each(carry_out, plans.values()), maxlen=0)
    runs.forget()
    if runs.study.measures and grid[0].drops > 1:
        ended = {plan.run_id: plan for plan in map(runs.plan, filter(runs.left_model, grid))}
        deque(each(partial(measure, names=runs.study.measures), ended.values()), maxlen=0)
    return len(plans)
