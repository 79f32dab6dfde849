"""Run jobs in this process, or in a pool of worker processes."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from retrain.records import Plan
from retrain.store.task_store import open_task_store
from retrain.training.preemption import Preempted
from retrain.utils import logs, processes
from retrain.utils.processes import WorkerCrashed

if TYPE_CHECKING:
    from retrain.pipeline.context import Context


class Workers(NamedTuple):
    """Number of training processes, and their device."""

    jobs: int = 1
    device: str = "auto"


class Job(Protocol):
    """A function that is applied to one plan."""

    def __call__(self, plan: Plan, *, device: str) -> None:
        """Execute the job, once per plan."""


class RunEach(Protocol):
    """A function that applies a job to independent plans, and yields after each plan."""

    def __call__(self, job: Job, plans: Iterable[Plan]) -> Iterator[None]:
        """Execute the job, once per plan."""


@contextmanager
def worker_pool(workers: Workers) -> Iterator[RunEach]:
    """Yield a function that runs jobs: one after the other, or in several processes that share the cores."""
    if workers.jobs == 1:
        yield lambda job, plans: map(partial(job, device=workers.device), plans)
        return
    settings = workers.jobs, logs.read_settings()
    with ProcessPoolExecutor(workers.jobs, processes.SPAWN, initializer=_init_worker, initargs=settings) as pool:
        try:
            yield lambda job, plans: pool.map(partial(_do_or_exit, job, device=workers.device), plans)
        except (Preempted, KeyboardInterrupt):
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
        except BrokenProcessPool:
            raise WorkerCrashed(
                "a training process was killed (perhaps for lack of memory): pass a smaller --jobs, and run the "
                "command again to resume it"
            ) from None


def _do_or_exit(job: Job, plan: Plan, *, device: str) -> None:
    """Run a job. After SIGTERM, the worker saves its training and exits, and starts no other job."""
    try:
        job(plan, device=device)
    except Preempted as preempted:
        os._exit(int(preempted.code or 0))


def _init_worker(jobs: int, log: logs.Settings | None) -> None:
    """Share the cores, log like the parent process, and exit with it."""
    if log:
        logs.configure_logging(*log)
    os.environ["LOCAL_WORLD_SIZE"] = str(jobs)  # torchrun's variable; `available_cores` reads it
    processes.exit_with_parent()


def run_free_trial(plan: Plan, *, device: str) -> None:
    """Train, evaluate and record one plan. Do nothing if it has ended, or while another process trains it."""
    _run_once(plan, device, patient=False)


def run_trial(plan: Plan, *, device: str) -> None:
    """Train, evaluate and record one plan. If another process trains it, wait for that process."""
    _run_once(plan, device, patient=True)


def _run_once(plan: Plan, device: str, *, patient: bool) -> None:
    from retrain.pipeline import stages

    context = _context(plan, device)
    with context.store.lock_run(plan.run_id, patient=patient) as lease:
        if lease is None or context.store.ledger.find(plan.run_id):
            return
        context.files(plan.run_id).write_plan(plan)
        stages.run_plan(context, plan)


def measure_run(plan: Plan, *, names: tuple[str, ...], device: str) -> None:
    """Measure an ended run. If another process measures it, wait for that process."""
    from retrain.experiments import measures

    context = _context(plan, device)
    with context.store.lock_run(plan.run_id, patient=True):
        measures.measure(context, plan, names)


def _context(plan: Plan, device: str) -> "Context":
    from retrain.monitoring.observers import StartAndEndLines, observer_for_stream
    from retrain.pipeline.context import make_context

    observer = StartAndEndLines if multiprocessing.parent_process() else observer_for_stream
    return make_context(open_task_store(plan.task), plan.task, device, observer)
