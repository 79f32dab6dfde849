"""A streamed run that was killed or preempted resumes to the same result, and runs stream from any store."""

import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
from support.histories import TASK as PAST_TASK
from support.histories import Past, drop
from support.leases import wait_until
from support.streams import SETTING, two_drops
from support.trainings import CPU, TASK, RecordingObserver, plan_of
from support.writes import freeze_at_state, wait_until_stopped

from retrain.config.task import Data, Task
from retrain.data.dataset import make_dataset
from retrain.pipeline.context import Context
from retrain.pipeline.evaluate import evaluate_run
from retrain.pipeline.train import train_plan
from retrain.records import Loading, Origin, Plan, Result
from retrain.store import LocalStore, ObjectStore
from retrain.store.task_store import TaskStore

STREAM = Loading(kind="stream", reason="a test")


def task_with(workers: int, **training: object) -> Task:
    stream = SETTING.model_copy(update={"workers": workers, "cache": "2Mi"})
    data = Data(**{**TASK.data.model_dump(), "stream": stream})
    return TASK.model_copy(update={"data": data, "training": TASK.training.model_copy(update=training)})


def context_of(folder: Path, store: ObjectStore | None = None) -> Context:
    named = frozenset({TASK.model.name})
    store = store or LocalStore(folder / "store")
    return Context(TaskStore(store, TASK.name), CPU, folder / "cache", RecordingObserver(), factories=named)


def plan_in(context: Context, workers: int = 0, drops: int = 2, parent: Plan | None = None, epochs: int = 8) -> Plan:
    """Plan a streamed scratch run, or a continuous run with thinned epochs, on the first drops."""
    task = task_with(workers, epochs=epochs)
    dataset = make_dataset(context.store.drops.all()[:drops])
    plan = plan_of(task, "continuous" if parent else "scratch", sizes=[drop.samples for drop in dataset.drops])
    lineage = {"parent": parent.run_id, "known": len(parent.dataset.drops)} if parent else {}
    own = Origin(seed=plan.seed, drops=drops, classes=len(dataset.classes))
    update = {"dataset": dataset, "loading": STREAM, "origin": parent.origin if parent else own, **lineage}
    return plan.model_copy(update=update)


def train(folder: Path, plan: Plan) -> None:
    """Train a plan on one thread in this process."""
    torch.set_num_threads(1)
    context_of(folder).files(plan.run_id).write_plan(plan)
    train_plan(context_of(folder), plan)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrain.pipeline.train", "torch._dynamo"])
    return context


def outcome(folder: Path, plan: Plan) -> tuple[object, ...]:
    """Return the results that runs are compared by, and remove them so that the run can be repeated."""
    store, files = LocalStore(folder / "store"), context_of(folder).files(plan.run_id)
    result, curve = files.result(), files.curve()
    for entry in list(store.list(f"{TASK.name}/runs/{plan.run_id}/")):
        store.delete(entry.key)
    assert isinstance(result, Result)
    return result.model_digest, result.index_digest, curve


def train_until_frozen(folder: Path, plan: Plan, writes: int) -> None:
    """Train in this process. The process stops itself at the `writes`-th write or removal of a checkpoint."""
    freeze_at_state(writes)
    train(folder, plan)


def started(processes: ForkServerContext, folder: Path, plan: Plan, writes: int) -> ForkServerProcess:
    """Return a process that trains the plan and has stopped itself as in `train_until_frozen`."""
    process = processes.Process(target=train_until_frozen, args=(folder, plan, writes))
    process.start()
    wait_until_stopped(process)
    return process


def workers_of(process: ForkServerProcess) -> list[int]:
    parents = {
        path.parent.name: path.read_text().rpartition(")")[2].split()[1] for path in Path("/proc").glob("[0-9]*/stat")
    }
    return [int(pid) for pid, parent in parents.items() if parent == str(process.pid)]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_killed_streamed_run_resumes_to_the_same_result(processes: ForkServerContext, tmp_path: Path) -> None:
    two_drops(LocalStore(tmp_path / "store"), tmp_path)
    parent = plan_in(context_of(tmp_path), drops=1)
    train(tmp_path, parent)
    plan = plan_in(context_of(tmp_path), parent=parent, epochs=12)
    train(tmp_path, plan)
    expected = outcome(tmp_path, plan)
    again = plan_in(context_of(tmp_path), workers=2, parent=parent, epochs=12)
    assert again.run_id == plan.run_id
    process = started(processes, tmp_path, again, writes=16)
    workers = workers_of(process)
    process.kill()
    process.join()
    assert len(workers) == 2
    process = started(processes, tmp_path, again, writes=24)
    asked = [process.pid, *workers_of(process)]
    for pid in asked:  # as when a container is stopped
        os.kill(pid, signal.SIGTERM)
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join()
    assert process.exitcode == os.EX_TEMPFAIL
    wait_until(lambda: all(map(gone, [*workers, *asked[1:]])))
    train(tmp_path, plan_in(context_of(tmp_path), workers=1, parent=parent, epochs=12))
    assert outcome(tmp_path, plan) == expected


def test_streamed_run_learns_and_records_that_it_streamed(store: ObjectStore, tmp_path: Path) -> None:
    two_drops(store, tmp_path)
    context = context_of(tmp_path, store)
    plan = plan_in(context, workers=1, epochs=20)
    context.files(plan.run_id).write_plan(plan)
    result = train_plan(context, plan)
    assert result.machine.loader == "stream"
    assert result.final_accuracy > 0.5
    evaluation = evaluate_run(context, plan, None)
    assert evaluation.samples == sum(drop.samples("test") for drop in context.store.drops.all())
    assert evaluation.accuracy > 0.5


def test_shuffle_shards_are_part_of_streamed_plans_only() -> None:
    """The planner sets a plan's number of shuffled shards only if samples are streamed."""

    def plan(loader: str, shuffle_shards: int) -> Plan:
        data = Data.model_validate({"loader": loader, "stream": {"shuffle_shards": shuffle_shards}})
        return Past(PAST_TASK.model_copy(update={"data": data})).landed(drop(1)).plan()

    held, streamed = ([plan(loader, shards) for shards in (3, 9)] for loader in ("memory", "stream"))
    assert [one.shuffle_shards for one in (*held, *streamed)] == [None, None, 3, 9]
    assert held[0].run_id == held[1].run_id
    assert len({held[0].run_id, *(one.run_id for one in streamed)}) == 3
