"""A step on several GPUs: its processes are started by torchrun, and end as it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from trainings import TASK, commit_drops, context_of

from pipelines.launch import launch
from retrain import ledger, stages
from retrain.config import Model, Task
from retrain.planning import Request
from retrain.recipe.settings import Cosine, Recipe
from retrain.records import Plan, RunRecord
from retrain.resources import Gpus, Resources


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A task whose drops have landed; its schedules miss, so that a retraining comes to several trainings."""
    commit_drops(tmp_path)
    training = TASK.training.model_copy(update={"epochs": 20, "save_seconds": 0})
    settings = {"model": Model(name="mlp"), "training": training, "recipe": Recipe(schedule=Cosine(scale=0.02))}
    return TASK.model_copy(update={**settings, "store": str(tmp_path / "store")})


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def record_of(folder: Path, run_id: str) -> RunRecord | None:
    context = context_of(folder)
    return ledger.find(context.store, context.layout, run_id)


def step(task: Task, run_id: str, folder: Path) -> subprocess.Popen[str]:
    """The training step of a pipeline, for two GPUs that are none."""
    text = task.model_copy(update={"resources": Resources(gpus=Gpus(count=2))}).model_dump_json()
    code = "import sys; from pipelines import steps; print(steps.train(*sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, text, run_id, "cpu"], env=environment(folder), stdout=subprocess.PIPE, text=True
    )


def test_a_step_with_two_gpus_trains_and_escalates_in_two_processes_and_exits_with_75_when_asked_to_leave(
    task: Task, tmp_path: Path
) -> None:
    context = context_of(tmp_path)
    champion = stages.run(context, first_drop(task, tmp_path), Request())
    assert isinstance(champion, RunRecord)
    plan = stages.plan(context, task, Request())
    assert isinstance(plan, Plan)
    process = step(task, plan.run_id, tmp_path)
    while not any("/state/" in entry.key for entry in context.store.list(f"{TASK.name}/runs/")):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    process.communicate()
    assert process.returncode == os.EX_TEMPFAIL
    process = step(task, plan.run_id, tmp_path)
    last = process.communicate()[0].strip()
    assert process.returncode == 0
    assert last == stages.last_attempt(context, plan).run_id != plan.run_id
    for run_id in (plan.run_id, last):
        result = context.files(run_id).result()
        assert result
        assert result.machine.processes == 2
    missed = record_of(tmp_path, plan.run_id)
    assert missed
    assert missed.outcome == "missed"
