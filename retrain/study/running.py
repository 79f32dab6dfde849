"""Run a study: whatever of its grid has not run yet, in this process or in several."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from retrain.layout import Layout
from retrain.records import Plan
from retrain.store import open_store
from retrain.study.grid import cells, parts_of
from retrain.study.landing import Root, land
from retrain.study.runs import Runs

log = logging.getLogger("retrain")


class Workers(NamedTuple):
    """How many processes train at once, and on what."""

    jobs: int = 1
    device: str = "auto"


def run(runs: Runs, root: Root, workers: Workers) -> int:
    """Land the drops and run every cell that has not run; return how many there were.

    It can be stopped at any moment and run again: what has ended is not repeated, and what was under way goes on.
    Raises `StudyError` if a data set is not at hand.
    """
    done = 0
    longest = max(parts_of(runs.study, split) for split in runs.study.splits)
    with _staff(workers) as each:
        for drops in range(1, longest + 1):
            grid = list(cells(runs.study, drops))
            for cell in grid:
                land(runs.study, cell.split, runs.task(cell), runs.store, root)
            plans = {plan.run_id: plan for plan in (runs.plan(cell) for cell in grid if runs.can_start(cell))}
            log.info("%s: %d of %d runs to do on %d drops", runs.study.name, len(plans), len(grid), drops)
            done += sum(1 for _ in each(partial(carry_out, device=workers.device), plans.values()))
            runs.forget()
    return done


@contextmanager
def _staff(workers: Workers) -> Iterator[Callable[[Callable[[Plan], None], Iterable[Plan]], Iterator[None]]]:
    """Yield what maps a function over plans that do not depend on each other: `map`, or that of several processes."""
    if workers.jobs == 1:
        yield map
        return
    fresh = multiprocessing.get_context("spawn")  # a forked torch may hang
    threads = max(1, (os.cpu_count() or 1) // workers.jobs)
    with ProcessPoolExecutor(workers.jobs, fresh, initializer=_share_cores, initargs=(threads,)) as pool:
        yield pool.map


def _share_cores(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def carry_out(plan: Plan, device: str) -> None:
    """Train, evaluate and record one plan."""
    from retrain import stages
    from retrain.machine import make_context

    context = make_context(open_store(plan.task.store, plan.task.endpoint_url), Layout(plan.task.name), device)
    context.files(plan.run_id).write_plan(plan)
    stages.carry_out(context, plan)
