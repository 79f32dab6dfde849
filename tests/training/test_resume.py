"""Processes are killed at chosen writes and restarted. The result equals the result of an uninterrupted run."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
import yaml
from support.leases import wait_until
from support.processes import forkserver, preloaded_programs, preloaded_retrain
from support.programs import python_environment
from support.trainings import TASK, commit_drops, context_of, states_in, stored_plan, train_in
from support.writes import freeze_at_state, terminate_stopped, wait_until_stopped

from retrain.kubeflow import steps
from retrain.records import Curve, Plan, Result

LONGER = TASK.training.model_copy(update={"epochs": 40})
"""Settings of a run of about a hundred iterations, with a checkpoint at each iteration."""


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Return a context whose processes start quickly, as forks of a process that has already imported torch."""
    return forkserver()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder whose store holds two drops and a parent that was trained on the first drop."""
    commit_drops(tmp_path)
    train_in(tmp_path, stored_plan(tmp_path, drops=1))
    return tmp_path


def plan_in(place: Path) -> Plan:
    task = TASK.model_copy(update={"training": LONGER})
    return stored_plan(place, drops=2, parent=stored_plan(place, drops=1), task=task)


def outcome(place: Path, plan: Plan) -> tuple[str | None, str | None, Curve, int]:
    """Return the results of a run that are compared: the digests of its model and counters, curve, iterations."""
    files = context_of(place).files(plan.run_id)
    result = files.result()
    assert isinstance(result, Result)
    return result.model_digest, result.index_digest, files.curve(), result.iterations


def uninterrupted(place: Path, plan: Plan) -> tuple[str | None, str | None, Curve, int]:
    """Train to the end in this process, remove the run's files, and return its outcome."""
    train_in(place, plan)
    found = outcome(place, plan)
    store = context_of(place).store.objects
    for entry in list(store.list(f"{TASK.name}/runs/{plan.run_id}/")):
        store.delete(entry.key)
    return found


def saved(place: Path, plan: Plan) -> list[str]:
    """Return the keys of the run's checkpoints, oldest first."""
    return [entry.key for entry in context_of(place).store.objects.list(f"{TASK.name}/runs/{plan.run_id}/state/")]


def newest(place: Path, plan: Plan) -> int:
    """Return the iteration of the newest checkpoint."""
    return max(int(Path(key).name.split("-")[0]) for key in saved(place, plan))


def train_until_frozen(work: Callable[[Path, Plan], object], place: Path, plan: Plan, writes: int) -> None:
    """Train a plan in this process. The process stops itself at the checkpoint write or removal with this number."""
    freeze_at_state(writes)
    work(place, plan)


def started(
    processes: ForkServerContext,
    place: Path,
    plan: Plan,
    writes: int,
    work: Callable[[Path, Plan], object] = train_in,
) -> ForkServerProcess:
    """Return a process that trains the plan, and has stopped itself at this write or removal of a checkpoint."""
    process = processes.Process(target=train_until_frozen, args=(work, place, plan, writes))
    process.start()
    wait_until_stopped(process)
    return process


def test_resumed_run_equals_uninterrupted_run(processes: ForkServerContext, place: Path) -> None:
    plan = plan_in(place)
    expected = uninterrupted(place, plan)
    moments = random.Random(0)
    for _ in range(4):  # an iteration writes one checkpoint and removes one
        process = started(processes, place, plan, writes=moments.randint(1, 40))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert saved(place, plan)
    train_in(place, plan)
    assert outcome(place, plan) == expected
    assert saved(place, plan) == []


def step_in(place: Path, plan: Plan) -> None:
    """Run the pipeline's training step."""
    os.environ["RETRAIN_CACHE"] = str(place / "cache")
    torch.set_num_threads(1)
    stored = plan.task.model_copy(update={"store": str(place / "store")})
    steps.train(stored.model_dump_json(), plan.run_id, "cpu")


def test_retried_pipeline_step_resumes_from_its_checkpoint(processes: ForkServerContext, place: Path) -> None:
    plan = plan_in(place)
    expected = uninterrupted(place, plan)
    context_of(place).files(plan.run_id).write_plan(plan)
    for writes in (40, 80):
        process = started(processes, place, plan, writes, step_in)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    reached = newest(place, plan)
    code = "import sys; from test_resume import *; place = Path(sys.argv[1]); step_in(place, plan_in(place))"
    again = subprocess.run([preloaded_programs() / "python", "-c", code, str(place)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f", resumed at iteration {reached}" in again.stderr
    assert outcome(place, plan) == expected


def test_sigterm_saves_a_checkpoint_and_exits_with_75(processes: ForkServerContext, place: Path) -> None:
    plan = plan_in(place)
    expected = uninterrupted(place, plan)
    process = started(processes, place, plan, writes=140)
    terminate_stopped(process)
    process.join()
    assert process.exitcode == os.EX_TEMPFAIL
    train_in(place, plan)
    assert outcome(place, plan) == expected


def test_run_resumes_from_the_checkpoint_before_a_torn_one(processes: ForkServerContext, place: Path) -> None:
    plan = plan_in(place)
    expected = uninterrupted(place, plan)
    process = started(processes, place, plan, writes=60)
    terminate_stopped(process)
    process.join()
    torn = saved(place, plan)[-1]
    store = context_of(place).store.objects
    store.write(torn, store.read(torn)[0][:-100])
    train_in(place, plan)
    assert outcome(place, plan) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_exits_75_on_a_signal_and_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    commit_drops(tmp_path)
    endless = TASK.training.model_copy(update={"epochs": 10_000})
    task = TASK.model_copy(update={"store": str(tmp_path / "store"), "training": endless})
    (tmp_path / "pets.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
    command = [preloaded_retrain(), "run", "--task", str(tmp_path / "pets.yaml"), "--device", "cpu"]
    environment = python_environment(RETRAIN_CACHE=str(tmp_path / "cache"))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: states_in(tmp_path))
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == os.EX_TEMPFAIL, errors
    assert "Traceback" not in errors
    assert ": preempted after " in errors
    assert ("press Ctrl-C again to end it now" in errors) is (number == signal.SIGINT)
    assert "its checkpoint is saved, and the same command resumes it" in errors
    assert states_in(tmp_path)
    assert list(context_of(tmp_path).store.objects.list(f"{TASK.name}/ledger/")) == []
