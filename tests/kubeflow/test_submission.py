"""Runs are submitted to Kubeflow by commands and by the watcher, and pods execute exactly the submitted runs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import terminal
from support.kfp_server import KfpServer, serving
from support.watching import DATA, TaskUnderTest

from retrain.cli.pipeline import build_pipeline
from retrain.config.resources import Kubeflow
from retrain.config.task import Model, Task
from retrain.errors import ModelError
from retrain.kubeflow import steps, submission
from retrain.kubeflow.records import Submission
from retrain.kubeflow.submission import KubeflowExecutor
from retrain.pipeline.next_run import check_model, plan_next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan

Retrain = Callable[..., terminal.Ran]


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def watched(tmp_path: Path) -> TaskUnderTest:
    task = Task(name="pets", store=str(tmp_path / "store"), data=DATA, model=Model(name="logistic"))
    (tmp_path / "pets.yaml").write_text(task.model_dump_json())
    return TaskUnderTest(task)


@pytest.fixture
def retrain(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Retrain:
    """Return a function that runs a command in the task file's folder and checks its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> terminal.Ran:
        ran = terminal.retrain(arguments, capsys)
        assert ran.code == code, ran.err
        return ran

    return run


def test_planned_run_is_submitted_once(
    watched: TaskUnderTest, kfp: KfpServer, retrain: Retrain, tmp_path: Path
) -> None:
    watched.land(tmp_path / "in", "a")
    command = ("run", "--task", "pets.yaml", "--on", "kubeflow", "--host", kfp.url)
    submitted = json.loads(retrain(*command, "--json").out)
    [run] = kfp.runs
    assert submitted == {"run_id": run["display_name"], "id": run["run_id"], "state": "PENDING", "new": True}
    assert [drop.id for drop in watched.plan(run["display_name"]).dataset.drops] == ["a"]
    again = retrain(*command).out
    assert again == f"{run['display_name']} already submitted as Kubeflow run {run['run_id']}\n"
    assert len(kfp.runs) == 1


def test_kubeflow_run_without_a_record_is_recorded_and_repeated(
    watched: TaskUnderTest, kfp: KfpServer, retrain: Retrain, tmp_path: Path
) -> None:
    """If Kubernetes refuses to create the pod of the last step, the next command must record the failed run."""
    watched.land(tmp_path / "in", "a")
    command = ("run", "--task", "pets.yaml", "--on", "kubeflow", "--host", kfp.url)
    retrain(*command)
    kfp.runs[0]["state"] = "FAILED"
    failed = retrain(*command, code=2)
    unrecorded = kfp.names[0]
    assert (
        f"{unrecorded} failed: its Kubeflow run {kfp.runs[0]['run_id']} ended without a record (state: FAILED)"
        in failed.err
    )
    assert watched.store.ledger.find(unrecorded).outcome == "failed"
    retrain(*command)
    assert len(set(kfp.names)) == 2


@pytest.mark.parametrize("command", ["--dry-run", "--on kubeflow", "pipeline trainjob"])
def test_unbuildable_network_is_refused_before_submission(
    watched: TaskUnderTest, kfp: KfpServer, retrain: Retrain, tmp_path: Path, command: str
) -> None:
    watched.land(tmp_path / "in", "a")
    arguments = ["run", *command.split(), "--host", kfp.url] if command.startswith("--") else command.split()
    refused = retrain(*arguments, "--task", "pets.yaml", "--set", "model.options.depth=7", code=2)
    assert "retrain: model.options.depth: logistic has no such option" in refused.err
    assert "Traceback" not in refused.err
    assert kfp.runs == []
    assert not [entry.key for entry in watched.store.objects.list("pets/submissions/")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.options.rate=1.0", "model.options.rate: 1.0 would arrive as 1"),
        ("resources.nodes=2", "resources.nodes: a pipeline trains on one node"),
        ("data.aliases.🙂=a", "data.aliases.🙂: Kubeflow's database cannot store '🙂'"),
    ],
)
def test_task_that_cannot_be_submitted_is_not_planned(
    watched: TaskUnderTest, kfp: KfpServer, retrain: Retrain, tmp_path: Path, setting: str, message: str
) -> None:
    watched.land(tmp_path / "in", "a")
    command = ("run", "--task", "pets.yaml", "--on", "kubeflow", "--host", kfp.url, "--set", setting)
    assert message in retrain(*command, code=2).err
    assert kfp.runs == []
    assert not [entry.key for entry in watched.store.objects.list("pets/runs/")]


def test_watcher_records_unbuildable_network_and_continues(
    watched: TaskUnderTest, kfp: KfpServer, tmp_path: Path
) -> None:
    broken = {"model": Model(name="logistic", options={"depth": 7}), "kubeflow": Kubeflow(host=kfp.url)}
    broken_task = TaskUnderTest(watched.task.model_copy(update=broken))
    broken_task.land(tmp_path / "in", "a")
    assert broken_task.watcher(KubeflowExecutor(build_pipeline)).once()
    [record] = broken_task.store.ledger.read()
    assert record.outcome == "failed"
    assert "model.options.depth: logistic has no such option" in str(record.error)
    assert kfp.runs == []


def test_network_factory_missing_locally_is_checked_by_pods(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    task = watched.task.model_copy(update={"model": Model(name="vision.nets:small")})
    planned = plan_next_run(watched.store, task, Request())
    assert isinstance(planned, Plan)
    check_model(planned, watched.store, elsewhere=True)
    with pytest.raises(ModelError, match=r"cannot import 'vision\.nets:small'"):
        check_model(planned, watched.store, elsewhere=False)


def test_pods_train_the_submitted_run_despite_newer_drops(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    planned = plan_next_run(watched.store, watched.task, Request())
    assert isinstance(planned, Plan)
    watched.store.run(planned.run_id).write_plan(planned)
    submission.write_submission(watched.store, planned.run_id, Submission(run_id=planned.run_id))
    watched.land(tmp_path / "in", "b")
    task = watched.task.model_dump_json()
    assert steps.plan(task, "", "retrain", planned.run_id, "job") == planned.run_id
    assert steps.plan(task, "", "retrain", "a recurring run's own id", "job") != planned.run_id


def test_schedule_command_creates_a_recurring_run(kfp: KfpServer, retrain: Retrain) -> None:
    output = retrain("pipeline", "schedule", "-t", "pets.yaml", "--cron", "0 2 * * 1", "--host", kfp.url).out
    [recurring] = kfp.recurringruns
    recurring_id = recurring["recurring_run_id"]
    assert output == f"scheduled: pets is retrained at 0 2 * * 1 UTC (Kubeflow recurring run {recurring_id})\n"
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * 1"
