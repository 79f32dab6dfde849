"""Who trains: this process, or several side by side."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from retrain.orphans import leave_with_parent
from retrain.records import Plan
from retrain.store import open_store

if TYPE_CHECKING:
    from retrain.context import Context


class Workers(NamedTuple):
    """How many processes train at once, and on what."""

    jobs: int = 1
    device: str = "auto"


class Job(Protocol):
    """What is done to one plan."""

    def __call__(self, plan: Plan, *, device: str) -> None:
        """Do it."""


class Each(Protocol):
    """Does a job to plans that do not depend on each other, and yields as they are done."""

    def __call__(self, job: Job, plans: Iterable[Plan]) -> Iterator[None]:
        """Do it."""


@contextmanager
def staff(workers: Workers) -> Iterator[Each]:
    """Yield what does jobs: in turn, or in several processes that share the cores."""
    if workers.jobs == 1:
        yield lambda job, plans: map(partial(job, device=workers.device), plans)
        return
    fresh = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(workers.jobs, fresh, initializer=_begin, initargs=(workers.jobs,)) as pool:
        yield lambda job, plans: pool.map(partial(job, device=workers.device), plans)


def _begin(jobs: int) -> None:
    """Share the cores, and leave with the process that gives the work."""
    os.environ["LOCAL_WORLD_SIZE"] = str(jobs)  # what torchrun calls it; `own_cores` asks
    leave_with_parent()


def carry_out(plan: Plan, *, device: str) -> None:
    """Train, evaluate and record one plan."""
    from retrain import stages

    context = _context(plan, device)
    context.files(plan.run_id).write_plan(plan)
    stages.carry_out(context, plan)


def measure(plan: Plan, *, names: tuple[str, ...], device: str) -> None:
    """Measure an ended run."""
    from retrain.study import measures

    measures.measure(_context(plan, device), plan, names)


def _context(plan: Plan, device: str) -> "Context":
    from retrain.machine import make_context

    return make_context(open_store(plan.task.store, plan.task.endpoint_url), plan.task, device)
