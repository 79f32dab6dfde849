"""MLflow gets every run and the champions, and TensorBoard gets every run.

Repeated and interrupted exports add nothing twice. The tests use MLflow's real client with a folder, and with a real
server if one can be started.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.mlflow_service import serving_mlflow
from support.workspaces import Workspace, make_task
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from retrain.cli import app
from retrain.config.task import Task
from retrain.errors import UserError
from retrain.inference.loading import Source
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore
from retrain.store.champions import Author
from retrain.store.task_store import TaskStore
from retrain.tracking import mlflow_connection, tensorboard_files
from retrain.tracking.hook import TrackerUpdates, update_trackers
from retrain.tracking.mlflow_connection import probe_mlflow
from retrain.tracking.mlflow_server import ALIAS, RUN_ID, export_to_mlflow
from retrain.tracking.tensorboard_files import write_event_files

TASK = make_task()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(params=["files", "server"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of MLflow's server, or of the folder with its files."""
    if request.param == "server":
        return str(request.getfixturevalue("server"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a workspace with a champion."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1)
    _retrain(workspace)
    return workspace


def _retrain(workspace: Workspace) -> RunRecord:
    record = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(record, RunRecord)
    return record


class MlflowContent:
    """The runs, models and aliases of a task in MLflow."""

    def __init__(self, address: str, name: str = "pets") -> None:
        from mlflow import MlflowClient  # takes 1.5 s, so only the tests that need it import it

        self.client, self.name = MlflowClient(address, address), name

    def runs(self) -> dict[str, Any]:
        experiment = self.client.get_experiment_by_name(self.name)
        return {run.data.tags[RUN_ID]: run for run in self.client.search_runs([experiment.experiment_id])}

    def versions(self) -> dict[str, str]:
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return {one.tags[RUN_ID]: str(one.version) for one in found}

    def champion(self) -> str:
        return str(self.client.get_model_version_by_alias(self.name, ALIAS).tags[RUN_ID])

    def forget(self) -> None:
        """Remove the runs and the model, for the next test."""
        experiment = self.client.get_experiment_by_name(self.name)
        self.client.delete_registered_model(self.name)
        for run in self.client.search_runs([experiment.experiment_id]):
            self.client.delete_run(run.info.run_id)


@pytest.fixture
def mlflow(address: str) -> Iterator[MlflowContent]:
    mlflow = MlflowContent(address)
    yield mlflow
    mlflow.forget()


def test_export_has_runs_curves_champions_and_alias(
    workspace: Workspace, address: str, mlflow: MlflowContent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(workspace.store)
    assert export_to_mlflow(source, address) == (1, 1, "1")
    workspace.land(0, 1, 2, seed=1)
    record = _retrain(workspace)
    first, second = workspace.store.ledger.read()
    assert export_to_mlflow(source, address) == (1, 1, "2")
    assert export_to_mlflow(source, address) == (0, 0, "2")
    assert capsys.readouterr().out == ""
    assert mlflow.runs().keys() == {first.run_id, second.run_id}
    assert mlflow.versions() == {first.run_id: "1", second.run_id: "2"}
    assert mlflow.champion() == second.run_id
    run = mlflow.runs()[record.run_id]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == record.evaluation.accuracy
    assert run.data.metrics["saved/net"] == record.savings.net
    assert run.data.params["method"] == record.method
    assert run.data.params["training.batch_size"] == "16"
    history = mlflow.client.get_metric_history(run.info.run_id, "val/score")
    curve = workspace.store.run(record.run_id).curve()
    assert [(one.step, one.value) for one in history] == [(point.iteration, point.score) for point in curve.points]
    _assert_model(mlflow.client.download_artifacts(run.info.run_id, "model", str(tmp_path)), workspace, record)


def _assert_model(folder: str, workspace: Workspace, record: RunRecord) -> None:
    """Assert that the registered model has the run's weights and classes."""
    weights, expected = load_file(Path(folder) / "model.safetensors"), workspace.store.run(record.run_id).weights()
    assert all(weights[name].equal(tensor) for name, tensor in expected.items())
    labels = json.loads((Path(folder) / "config.json").read_text())["id2label"]
    assert list(labels.values()) == ["class-0", "class-1", "class-2"]


def test_interrupted_export_is_completed(
    workspace: Workspace, address: str, mlflow: MlflowContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the export after each of the client's calls. No run or version may exist twice."""
    source = Source(workspace.store)
    client = type(mlflow.client)
    calls = ("create_run", "log_batch", "set_terminated", "log_artifacts", "create_model_version")
    for call in calls:
        with monkeypatch.context() as patched:
            patched.setattr(client, call, _dying_after(getattr(client, call)))
            with pytest.raises(KeyboardInterrupt):
                export_to_mlflow(source, address)
    assert export_to_mlflow(source, address) == (0, 0, "1")
    assert len(mlflow.runs()) == len(mlflow.versions()) == 1
    assert mlflow.champion() == workspace.store.champion.read().run_id


def _dying_after(call: Any) -> Any:
    def called(*arguments: Any, **named: Any) -> None:
        call(*arguments, **named)
        raise KeyboardInterrupt

    return called


def test_rollback_moves_the_alias_back(workspace: Workspace, address: str, mlflow: MlflowContent) -> None:
    first = workspace.store.champion.read().run_id
    workspace.land(0, 1, 2, seed=1)
    second = _retrain(workspace).run_id
    export_to_mlflow(Source(workspace.store), address)
    assert mlflow.champion() == second
    workspace.store.champion.swap(workspace.store.champion.read(), first, "rolled back", Author("ann", "too slow"))
    assert export_to_mlflow(Source(workspace.store), address) == (0, 0, "1")
    assert mlflow.champion() == first


def tracked(workspace: Workspace) -> Task:
    """Return the workspace's task with MLflow as its tracker."""
    return make_task(tracking={"mlflow": True}, store=workspace.store.url)


def test_watchers_export_keeps_torch_out_of_its_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory limit of the watcher's container has no room for them."""
    address = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    task = tmp_path / "pets.json"
    task.write_text(tracked(workspace).model_dump_json(exclude_defaults=True))
    program = """
import sys
from retrain.config.loading import load_task
from retrain.store.task_store import open_task_store
from retrain.tracking.hook import TrackerUpdates
if __name__ == "__main__":
    task = load_task(sys.argv[1])
    TrackerUpdates(task, open_task_store(task)).follow()
    print({"torch", "mlflow"} & sys.modules.keys())
"""
    (tmp_path / "watcher.py").write_text(program)
    ended = subprocess.run([sys.executable, tmp_path / "watcher.py", task], capture_output=True, text=True)
    assert ended.stdout == "set()\n", ended.stderr
    assert MlflowContent(address).champion() == workspace.store.champion.read().run_id


def test_watcher_waits_before_it_retries_a_failed_export(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watcher logs the error once, and waits before it retries."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    updates = TrackerUpdates(tracked(workspace), workspace.store)
    updates.follow()
    updates.follow()
    assert caplog.text.count("pets is not up to date in MLflow; `retrain track` exports it again") == 1
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9: cannot be reached: Connection refused"):
        export_to_mlflow(Source(workspace.store), "http://127.0.0.1:9")


def test_silent_mlflow_server_is_reported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server accepts connections and never replies."""
    monkeypatch.setattr(mlflow_connection, "SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"MLflow at http://127.*: no answer within 0\.2 s"):
            export_to_mlflow(Source(workspace.store), address)


def test_probe_asks_for_the_experiment_and_creates_none(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert probe_mlflow("pets") == probe_mlflow("pets")
    assert probe_mlflow("birds") == f"{server} answers; the first export creates the experiment birds"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server}/elsewhere")
    with pytest.raises(UserError, match=r"MLflow at http://127.*/elsewhere: .*404"):
        probe_mlflow("pets")


def test_watcher_exports_runs_and_promotions_once(
    workspace: Workspace, address: str, mlflow: MlflowContent, caplog: pytest.LogCaptureFixture
) -> None:
    """The watcher contacts the server again only after a change of runs or champion."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", address)
        updates = TrackerUpdates(tracked(workspace), workspace.store)
        updates.follow()
        assert mlflow.champion() == workspace.store.champion.read().run_id
        patched.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        updates.follow()
    assert "not up to date" not in caplog.text


def test_task_without_tracker_contacts_no_server(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert update_trackers(TASK, workspace.store)


def _fail(workspace: Workspace) -> str:
    """Record a run that failed before its training ended, and return its id."""
    workspace.land(0, 1, 2, seed=1)
    planned = stages.plan(workspace.context, TASK, Request())
    assert isinstance(planned, Plan)
    return stages.record_failure(workspace.context, planned, "out of memory").run_id


def test_weights_of_any_class_name_are_exported_to_mlflow(
    workspace: Workspace, address: str, mlflow: MlflowContent
) -> None:
    weights = {"cats & dogs (big)": 3.0, "class-0": 2.0}
    task = make_task(training={"epochs": 1, "batch_size": 16, "class_weights": weights})
    trial = stages.run_task(workspace.context, task, Request(method="scratch", purpose="trial"))
    assert isinstance(trial, RunRecord)
    assert export_to_mlflow(Source(workspace.store), address) == (2, 1, "1")
    assert mlflow.runs()[trial.run_id].data.params["training.class_weights"] == str(weights)


def test_failed_run_is_exported_to_mlflow_without_curve(
    workspace: Workspace, address: str, mlflow: MlflowContent
) -> None:
    failed = _fail(workspace)
    assert export_to_mlflow(Source(workspace.store), address) == (2, 1, "1")
    assert mlflow.runs()[failed].info.status == "FAILED"
    assert "val/accuracy" not in mlflow.runs()[failed].data.metrics


def test_failed_run_has_event_files_without_curve(workspace: Workspace, tmp_path: Path) -> None:
    failed = _fail(workspace)
    assert write_event_files(workspace.store, tmp_path / "board") == 2
    read = EventAccumulator(str(tmp_path / "board" / failed)).Reload()
    assert "val/accuracy" not in read.Tags()["scalars"]
    assert read.Tensors("outcome/text_summary")[0].tensor_proto.string_val == [b"failed"]


def test_event_files_of_a_second_process_are_kept(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board"
    write_run = tensorboard_files._write_run

    def write_after_another_process(store: TaskStore, record: RunRecord, folder: Path) -> None:
        monkeypatch.undo()
        assert write_event_files(store, board) == 1
        write_run(store, record, folder)

    monkeypatch.setattr(tensorboard_files, "_write_run", write_after_another_process)
    assert write_event_files(workspace.store, board) == 0
    assert len(list(board.iterdir())) == 1


def test_export_needs_an_address(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no MLflow server: set"):
        export_to_mlflow(Source(workspace.store))


def test_event_files_contain_curve_and_summary(tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1)
    record = stages.run_task(workspace.context, make_task(), Request())
    assert isinstance(record, RunRecord)
    assert [write_event_files(workspace.store, tmp_path / "board") for _ in range(2)] == [1, 0]
    assert [folder.name for folder in (tmp_path / "board").iterdir()] == [record.run_id]
    read = EventAccumulator(str(tmp_path / "board" / record.run_id)).Reload()
    curve = workspace.store.run(record.run_id).curve()
    assert [(event.step, event.value) for event in read.Scalars("val/accuracy")] == [
        (point.iteration, pytest.approx(point.accuracy)) for point in curve.points
    ]
    assert read.Scalars("test/accuracy")[0].value == pytest.approx(record.evaluation.accuracy)
    assert "training.batch_size | 16" in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


def test_track_command_counts_the_added_runs(tmp_path: Path) -> None:
    task = tmp_path / "pets.yaml"
    task.write_text(f"name: pets\nstore: {tmp_path / 'store'}")
    board = tmp_path / "board"
    ran = CliRunner().invoke(app, ["track", "--task", str(task), "--to", "tensorboard", "-o", str(board)])
    assert ran.output.startswith("0 runs added; view them with `tensorboard --logdir ")
