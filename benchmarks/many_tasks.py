"""Measure one watcher with many tasks, and with a task of many drops: requests, processor time, memory.

A server in this process takes the place of S3 and keeps the objects in memory (`lib/aws.py`). The watcher and its
planning run in another process. Each task has one committed drop. A turn is one pass of the watcher over all tasks. In
the first turn, the watcher starts a run for each task. The executor does nothing, so all runs stay active, and later
turns find nothing new.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

from lib.aws import Aws, serving
from lib.spent import peak_mb

from retrain.config.task import Task
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import Request
from retrain.records import Drop, Plan, SampleList, Shard
from retrain.records.drop import drop_digest
from retrain.store import requests
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore, open_task_store
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch
from retrain.watcher.watcher import Watcher

START = datetime(2020, 1, 1, tzinfo=UTC)
URL = "s3://bench"


class Idle:
    """An executor whose runs never end."""

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        """Start nothing, and return that nothing was started."""
        return False


def drop(task: str, number: int) -> Drop:
    """Return a committed drop with one shard."""
    shard = Shard(name="train-000000-00000000.tar", split="train", samples=1000, size=64_000_000, sha256="0" * 64)
    counts = {split: {"cat": samples, "dog": samples} for split, samples in (("train", 400), ("val", 50), ("test", 50))}
    unnamed = Drop(
        id=f"drop-{number:05d}",
        task=task,
        classes=("cat", "dog"),
        shards=(shard,),
        counts=counts,
        sample_list=SampleList(name="samples-00000000.safetensors", size=1, sha256="0" * 64),
        source=f"{number:064x}",
        held_out={"val": 0.1, "test": 0.1},
        digest="",
        committed_at=START + timedelta(hours=number),
    )
    return unnamed.model_copy(update={"digest": drop_digest(unnamed)})


def bucket(tasks: int, drops: int) -> dict[str, bytes]:
    """Return the manifests of this number of tasks, each with this number of drops."""
    landed = (drop(f"task-{task:05d}", number) for task in range(tasks) for number in range(drops))
    return {TaskKeys(one.task).manifest(one.id): one.to_bytes() for one in landed}


def count_requests() -> dict[str, int]:
    """Return this process's requests so far, by operation."""
    return {labels[0]: each.cumulative[-1] for labels, each in requests.REQUESTS.read().items()}


def measure_cost(work: Callable[[], object]) -> dict[str, object]:
    """Do some work, and return its requests by operation, and its processor time."""
    before, cpu = count_requests(), time.process_time()
    work()
    asked = {name: number - before.get(name, 0) for name, number in count_requests().items()}
    return {"requests": {name: number for name, number in asked.items() if number}, "cpu_s": processor_time_since(cpu)}


def processor_time_since(since: float) -> float:
    """Return the processor time since `since`, in seconds."""
    return round(time.process_time() - since, 2)


def watch_tasks(tasks: int, endpoint_url: str) -> dict[str, object]:
    """Return the cost of the first and third turn of a watcher with this number of tasks."""
    bare, names = peak_mb(), [f"task-{number:05d}" for number in range(tasks)]
    health = Health(names)
    watches = [TaskWatch(Task(name=name, store=URL, endpoint_url=endpoint_url), Idle(), health) for name in names]
    watcher = Watcher(watches, health, poll_seconds=0, queue=None)
    first = measure_cost(watcher.once)
    watcher.once()
    later = measure_cost(watcher.once)
    return {"tasks": tasks, "first turn": first, "later turn": later, "without a task_mb": bare, "peak_mb": peak_mb()}


def watch_drops(drops: int, endpoint_url: str) -> dict[str, object]:
    """Return the cost of a task with this number of drops: two polls, and the plan of a run on all drops."""
    task = Task(name="task-00000", store=URL, endpoint_url=endpoint_url)
    bare, watch = peak_mb(), TaskWatch(task, Idle(), Health([task.name]))
    first, later = measure_cost(watch.check_drops), measure_cost(watch.check_drops)
    plan = measure_cost(lambda: plan_next_run(open_task_store(task), task, Request()))
    taken = {"first poll": first, "later poll": later, "plan": plan}
    return {"drops": drops, **taken, "without a task_mb": bare, "peak_mb": peak_mb()}


def main() -> None:
    """Watch many tasks, and then a task with many drops."""
    from lib.report import (
        parser,
        report,
    )  # here, because it imports torch: the watcher's process is measured without torch

    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=1000, help="number of tasks of one watcher")
    options.add_argument("--drops", type=int, default=10_000, help="number of drops of one task")
    chosen = options.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "bench")
    os.environ.update({"AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"})
    taken: dict[str, object] = {}
    for what, number, objects in (
        (watch_tasks, chosen.tasks, bucket(chosen.tasks, 1)),
        (watch_drops, chosen.drops, bucket(1, chosen.drops)),
    ):
        aws = Aws()
        aws.fill(objects)
        with serving(aws) as endpoint_url, get_context("spawn").Pool(1) as pool:
            taken[what.__name__] = pool.apply(what, (number, endpoint_url))
    report(taken, chosen.output)


if __name__ == "__main__":
    main()
