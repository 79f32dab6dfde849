"""Runs on Kubeflow from the command line, and what their pods then do."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_server import KfpServer, serving
from watching import DATA, Place

from pipelines import steps, submissions
from pipelines.submissions import Submission
from retrain.config import Model, Task
from retrain.next_run import preview
from retrain.planning import Request
from retrain.records import Plan
from retrain.run_records import RunRecords


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Place:
    task = Task(name="pets", store=str(tmp_path / "store"), data=DATA, model=Model(name="logistic"))
    (tmp_path / "pets.yaml").write_text(task.model_dump_json())
    return Place(task)


def retrain(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "retrain", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_run_is_submitted_once_and_kept_as_it_was_planned(place: Place, kfp: KfpServer, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    command = ("run", "--task", "pets.yaml", "--on", "kubeflow", "--host", kfp.url)
    submitted = json.loads(retrain(tmp_path, *command, "--json"))
    [run] = kfp.runs
    assert submitted == {"run_id": run["display_name"], "id": run["run_id"], "state": "PENDING", "new": True}
    assert [drop.id for drop in place.plan(run["display_name"]).dataset.drops] == ["a"]
    assert (
        retrain(tmp_path, *command)
        == f"{run['display_name']} was submitted before, as Kubeflow's run {run['run_id']}\n"
    )
    assert len(kfp.runs) == 1


def test_the_pods_do_the_run_that_was_submitted_whatever_has_landed_since(place: Place, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    planned = preview(place.store, place.layout, place.task, Request())
    assert isinstance(planned, Plan)
    RunRecords(place.store, place.layout, planned.run_id).write_plan(planned)
    submissions.write(place.store, place.layout, planned.run_id, Submission(run_id=planned.run_id))
    place.land(tmp_path / "in", "b")
    task = place.task.model_dump_json()
    assert steps.plan(task, "", "retrain", planned.run_id, "job") == planned.run_id
    assert steps.plan(task, "", "retrain", "a recurring run's own id", "job") != planned.run_id


def test_a_schedule_is_given_to_kubeflow(place: Place, kfp: KfpServer, tmp_path: Path) -> None:
    said = retrain(tmp_path, "pipeline", "schedule", "-t", "pets.yaml", "--cron", "0 2 * * 1", "--host", kfp.url)
    [recurring] = kfp.recurringruns
    assert said == f"pets is retrained at 0 2 * * 1 UTC, as Kubeflow's recurring run {recurring['recurring_run_id']}\n"
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * 1"
