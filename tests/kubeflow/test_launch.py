"""A task on several GPUs: torchrun starts one process per GPU, and the step ends with one exit code and one record."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.processes import preloaded_python
from support.programs import python_environment
from support.workspaces import Workspace, make_task
from support.writes import frozen_environment, wait_for_frozen, wait_for_pending

from retrain.config.task import Task
from retrain.pipeline import next_run, stages
from retrain.pipeline.planning import Request
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a workspace with a drop."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, 2)
    return workspace


def task_in(folder: Path, gpus: int) -> Task:
    """Return a task for a number of GPUs. Its schedule and its escalation are too short to reach a target."""
    return make_task(
        store=str(folder / "store"),
        recipe={
            "preset": "paper",
            "initialization": {"name": "fresh"},
            "objective": {"name": "none"},
            "schedule": {"name": "cosine", "scale": 0.02, "escalation": [0.03]},
        },
        training={"epochs": 20, "batch_size": 16, "evaluate_every": 1, "save_seconds": 0},
        resources={"gpus": {"count": gpus}},
    )


def start(folder: Path, *command: str, freeze: Path | None = None) -> subprocess.Popen[str]:
    settings = {"RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment = frozen_environment(freeze, 2, **settings) if freeze else python_environment(**settings)
    return subprocess.Popen([preloaded_python(), *command], env=environment, stdout=subprocess.PIPE, text=True)


def start_step(folder: Path, plan: Plan, freeze: Path | None = None) -> subprocess.Popen[str]:
    """Start the training step of a pipeline. With `freeze`, its first process stops itself after a checkpoint."""
    code = "import sys; from retrain.kubeflow import steps; print(steps.train(*sys.argv[1:]))"
    return start(folder, "-c", code, task_in(folder, gpus=2).model_dump_json(), plan.run_id, "cpu", freeze=freeze)


def test_step_escalates_in_two_processes_and_exits_75_on_sigterm(workspace: Workspace) -> None:
    task = task_in(workspace.folder, gpus=1)
    assert isinstance(stages.run_task(workspace.context, task, Request()), RunRecord)
    workspace.land(3, seed=1)
    plan = stages.plan(workspace.context, task, Request())
    assert isinstance(plan, Plan)
    pid_file = workspace.folder / "frozen"
    process = start_step(workspace.folder, plan, freeze=pid_file)
    frozen = wait_for_frozen(pid_file, process)
    process.terminate()
    wait_for_pending(frozen, signal.SIGTERM)
    os.kill(frozen, signal.SIGCONT)
    process.communicate()
    assert process.returncode == os.EX_TEMPFAIL
    process = start_step(workspace.folder, plan)
    last = process.communicate()[0].strip()
    assert process.returncode == 0
    assert last == next_run.latest_attempt(workspace.store, plan).run_id != plan.run_id
    (longer,) = {record.run_id for record in workspace.store.ledger.read() if record.attempt == 1}
    for run_id, outcome in ((plan.run_id, "missed"), (longer, "missed"), (last, "completed")):
        result = workspace.context.files(run_id).result()
        assert result
        assert (result.outcome, result.machine.processes) == (outcome, 2)


def test_run_under_torchrun_records_and_prints_one_run(workspace: Workspace) -> None:
    (workspace.folder / "pets.json").write_text(task_in(workspace.folder, gpus=2).model_dump_json())
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(
        workspace.folder,
        *torchrun,
        "-m",
        "retrain",
        "run",
        "--json",
        "--device",
        "cpu",
        "-t",
        str(workspace.folder / "pets.json"),
    )
    record = json.loads(process.communicate()[0])
    assert process.returncode == 0
    assert (record["outcome"], record["result"]["machine"]["processes"]) == ("completed", 2)
    assert [entry.key for entry in workspace.store.objects.list("pets/ledger/")] == [
        f"pets/ledger/{record['run_id']}.json"
    ]
