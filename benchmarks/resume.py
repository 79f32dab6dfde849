"""Count the runs that end as if uninterrupted, after SIGKILL at random moments and a restart.

A run has a separate process and saves a checkpoint after every iteration. The benchmark kills it up to 0.2 s after a
random iteration. This can be the first or the last one. It compares the digests of the model and of the learning-speed
index, and the curve.
"""

import multiprocessing
import random
import signal
import tempfile
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
from lib.report import parser, report

from retrain.config.loading import load_task
from retrain.data.packing import pack
from retrain.data.staging import Staging
from retrain.experiments.datasets import write_digits
from retrain.monitoring.observers import LogLines
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.planning import Request
from retrain.pipeline.train import train_plan
from retrain.records import Plan
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"


def context_of(folder: Path) -> Context:
    """Return the context of this benchmark's runs."""
    return Context(TaskStore(LocalStore(folder / "store"), "digits"), torch.device("cpu"), folder / "cache", LogLines())


def train_in(folder: Path, plan: Plan) -> None:
    """Train a plan in this process."""
    torch.set_num_threads(1)
    train_plan(context_of(folder), plan)


def outcome(folder: Path, plan: Plan) -> tuple[object, ...]:
    """Return the compared parts of a run, and delete the run."""
    context = context_of(folder)
    files = context.files(plan.run_id)
    result = files.result()
    if result is None:
        raise RuntimeError(f"{plan.run_id} has not ended")
    found = (result.model_digest, result.index_digest, files.curve(), result.outcome)
    for entry in list(context.store.objects.list(context.store.keys.run(plan.run_id, ""))):
        context.store.objects.delete(entry.key)
    return found


def train_to_end(processes: ForkServerContext, folder: Path, plan: Plan) -> None:
    """Train the plan to its end in a separate process."""
    process = processes.Process(target=train_in, args=(folder, plan))
    process.start()
    process.join()


def kill_in_training(processes: ForkServerContext, folder: Path, plan: Plan, iteration: int, seconds: float) -> bool:
    """Train in a process, and kill it some seconds after the checkpoint of an iteration is in the store.

    Return False if the training ended before that.
    """
    process = processes.Process(target=train_in, args=(folder, plan))
    process.start()
    while process.is_alive() and (newest_state(folder, plan) or 0) < iteration:
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def plan_in(folder: Path) -> Plan:
    """Pack the digits, and return the plan of a scratch run that saves a checkpoint after every iteration."""
    task = load_task(str(TASK), ["training.save_seconds=0", "training.epochs=8"])
    write_digits(folder / "digits")
    pack(folder / "digits", task, context_of(folder).store, staging=Staging.parse("share", "50+50"))
    planned = stages.plan(context_of(folder), task, Request())
    if not isinstance(planned, Plan):
        raise RuntimeError(planned.reason)
    return planned


def newest_state(folder: Path, plan: Plan) -> int | None:
    """Return the iteration at which a killed run will resume, or None if it has no checkpoint."""
    context = context_of(folder)
    states = [entry.key for entry in context.store.objects.list(context.store.keys.run(plan.run_id, "state/"))]
    return int(Path(states[-1]).name.split("-")[0]) if states else None


def kill_and_compare(folder: Path, kills: int) -> dict[str, object]:
    """Kill and resume runs. Return how many end like the first run (not killed), and where they resumed."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["retrain.pipeline.train", "retrain.cli.demo"])
    plan, moments = plan_in(folder), random.Random(0)
    train_to_end(processes, folder, plan)
    expected = outcome(folder, plan)
    identical, resumed_at = 0, list[int | None]()
    while len(resumed_at) < kills:
        if kill_in_training(processes, folder, plan, moments.randint(0, plan.iterations), moments.uniform(0, 0.2)):
            resumed_at.append(newest_state(folder, plan))
            train_to_end(processes, folder, plan)
            identical += outcome(folder, plan) == expected
        else:
            outcome(folder, plan)
    return {"kills": kills, "identical": identical, "iterations": plan.iterations, "resumed_at": resumed_at}


def main() -> None:
    """Kill runs, and count those that end as if uninterrupted."""
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-resume-") as folder:
        report(kill_and_compare(Path(folder), chosen.kills), chosen.output)


if __name__ == "__main__":
    main()
