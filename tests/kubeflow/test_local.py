"""kfp runs the pipeline in local processes, on scikit-learn's scanned digits."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from kfp.local.config import LocalExecutionConfig
from PIL import Image
from retrain.pipelines.definition import ConfigurePod, define, define_locally
from sklearn.datasets import load_digits
from support.processes import preloaded_python, preloaded_retrain

from retrain.config.recipe import Cosine, Fresh, NoPenalty, Recipe
from retrain.config.resources import Resources
from retrain.config.task import Data, Gate, Model, Target, Task, Training
from retrain.data.packing import pack
from retrain.data.staging import Staging
from retrain.kubeflow.local import DefinePipeline, run_locally
from retrain.kubeflow.outputs import run_metrics
from retrain.pipeline import stages
from retrain.pipeline.context import make_context
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import RunRecord
from retrain.store import LocalStore, open_store
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

KEYS = TaskKeys("digits")
TIMES = ("started_at", "ended_at", "stage_seconds", "device_seconds", "device_seconds_all_in")


class Stores(NamedTuple):
    """The same task with three stores. They are equal before the training on the second drop."""

    here: Task
    """Task whose runs are executed in the process of the test."""
    one_pod: Task
    """Task whose training pod evaluates."""
    separate: Task
    """Task whose runs are evaluated in separate pods."""


def write_digits(root: Path) -> Path:
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:600], digits.target[:600], strict=True)):
        path = root / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(path)
    return root


def keep_outputs(target: Path) -> DefinePipeline:
    """Return a function that defines the pipeline and copies kfp's output files before `run_locally` removes them."""

    def define_kept(task: Task, image: str, configure: ConfigurePod) -> Callable[..., object]:
        pipeline = define(task, image, configure)

        def run(**arguments: Any) -> None:
            pipeline(**arguments)
            shutil.copytree(LocalExecutionConfig.instance.pipeline_root, target)

        return run

    return define_kept


class Outputs(NamedTuple):
    """Metadata and texts of the artifacts of one step, by the artifact's name."""

    metadata: dict[str, dict[str, Any]]
    files: dict[str, str]


def read_outputs(target: Path) -> dict[str, Outputs]:
    """Return the outputs of the steps that have artifacts, by the step's name."""
    found = {}
    for path in target.glob("*/*/executor_output.json"):
        artifacts = json.loads(path.read_text()).get("artifacts", {})
        if artifacts:
            found[path.parent.name] = Outputs(
                {name: entry["artifacts"][0]["metadata"] for name, entry in artifacts.items()},
                {child.name: child.read_text() for child in path.parent.iterdir() if child.name in artifacts},
            )
    return found


def confusion_rows(metadata: dict[str, Any]) -> tuple[list[str], list[list[int]]]:
    """Return the categories and rows of a confusion matrix as Kubeflow's UI reads them."""
    matrix = metadata["confusionMatrix"]
    return [one["displayName"] for one in matrix["annotationSpecs"]], [one["row"] for one in matrix["rows"]]


def run_here(task: Task) -> RunRecord:
    context = make_context(TaskStore(open_store(task.store), task.name), task, "cpu")
    ended = stages.run_task(context, task, Request())
    assert isinstance(ended, RunRecord)
    return ended


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_CACHE", str(cache))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Stores:
    """Return stores with two drops. The first has 60% of the images, and one run was trained on it.

    The second drop has 40% of the images. No run has been trained on it.
    """
    root = tmp_path_factory.mktemp("digits")
    task = Task(
        name="digits",
        store=str(root / "here"),
        data=Data(image_size=8, crop_padding=0, flip=False, val_share=0.2, test_share=0.2),
        model=Model(name="mlp", options={"width": 24}),
        training=Training(epochs=10, batch_size=32, evaluate_every=1),
        recipe=Recipe(
            preset="paper",
            initialization=Fresh(),
            objective=NoPenalty(),
            schedule=Cosine(scale=0.02, escalation=(1.0,)),
        ),
        target=Target(level=95),
        gate=Gate(margin=0.1),
    )
    images, staging = write_digits(root / "images"), Staging.parse("share", "60+40", 0)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETRAIN_CACHE", str(cache))
        pack(images, task, TaskStore(LocalStore(root / "here"), task.name), staging=staging, part=1)
        run_here(task)
    pack(images, task, TaskStore(LocalStore(root / "here"), task.name), staging=staging, part=2)
    for name in ("one-pod", "separate"):
        shutil.copytree(root / "here", root / name)
    separate = Resources(separate_evaluation=True)
    return Stores(
        task,
        task.model_copy(update={"store": str(root / "one-pod")}),
        task.model_copy(update={"store": str(root / "separate"), "resources": separate}),
    )


@pytest.fixture(scope="module")
def here(stores: Stores, cache: Path) -> RunRecord:
    """Return the record of the run in this process."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETRAIN_CACHE", str(cache))
        return run_here(stores.here)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return value


@pytest.mark.parametrize("pods", ["one_pod", "separate"])
def test_local_pipeline_writes_the_record_of_an_in_process_run(
    stores: Stores,
    here: RunRecord,
    pods: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", preloaded_python())  # kfp starts steps with this program
    task: Task = getattr(stores, pods)
    capfd.readouterr()
    kfp = run_locally(task, Request(), "cpu", keep_outputs(tmp_path / "kept"))
    printed = capfd.readouterr()
    assert isinstance(kfp, RunRecord)
    assert (kfp.method, kfp.outcome, kfp.attempt) == ("continuous", "reached", 1), (
        "the run before, with a short schedule, missed its target"
    )
    assert without_times(kfp.model_dump()) == without_times(here.model_dump())
    assert kfp.started_at > here.ended_at
    assert TaskStore(LocalStore(Path(task.store)), "digits").ledger.find(kfp.run_id) == kfp
    assert printed.out == "", "standard output is only for the record"
    assert f"{kfp.run_id}: " in printed.err
    assert "KFP" not in printed.err
    outputs = read_outputs(tmp_path / "kept")
    assert outputs.keys() == {{"one_pod": "train", "separate": "record"}[pods]}
    check_outputs(outputs.popitem()[1], task, kfp)


def test_local_pipeline_returns_the_reason_for_no_run(stores: Stores, here: RunRecord) -> None:
    again = run_locally(stores.here, Request(), "cpu", define_locally)
    assert isinstance(again, NoRunNeeded)
    assert again.reason == f"no drop has landed since champion {here.run_id}"


def check_outputs(outputs: Outputs, task: Task, record: RunRecord) -> None:
    """Compare a step's artifacts with the run's record and files."""
    store = TaskStore(LocalStore(Path(task.store)), task.name)
    (missed,) = (store.ledger.find(run_id) for run_id in store.run(record.run_id).plan().earlier)
    assert missed
    assert missed.savings
    assert record.savings
    assert record.result
    assert record.evaluation
    assert record.target
    assert missed.savings.used > 0
    assert outputs.metadata["metrics"] == {
        "iterations_used": missed.savings.used + record.result.iterations,
        "iterations_saved": missed.savings.gross + record.savings.gross,
        "iterations_saved_all_in": missed.savings.net + record.savings.net,
        "validation_accuracy": record.result.final_accuracy,
        "target_accuracy": record.target.accuracy,
        "test_accuracy": record.evaluation.accuracy,
        "promoted": 1,
    }
    assert record.result.speed_up["100"] is None, "the run ended at 95% of a_scratch"
    faster = record.result.model_copy(update={"speed_up": {"99": 3.0, "100": 2.5}})
    figures = run_metrics([record.model_copy(update={"result": faster})])
    assert (figures["L_99"], figures["L_100"]) == (3.0, 2.5)
    classes, rows = confusion_rows(outputs.metadata["confusion_matrix"])
    assert classes == [str(digit) for digit in range(10)]
    assert sum(map(sum, rows)) == record.evaluation.samples
    right = {name: row[index] / sum(row) for index, (name, row) in enumerate(zip(classes, rows, strict=True))}
    assert right == pytest.approx(record.evaluation.by_class)
    weights = Path(outputs.metadata["model"]["weights"])
    assert (weights.parent.name, outputs.metadata["model"]["run_id"]) == (record.run_id, record.run_id)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == outputs.metadata["model"]["sha256"]
    assert outputs.metadata["model"]["outcome"] == "promoted"
    assert json.loads(outputs.files["model"]) == outputs.metadata["model"]
    assert outputs.files["report"].startswith("<!doctype html>")
    assert record.run_id in outputs.files["report"]


DIES_IN_TRAINING = """
import os
from torch import nn

class Dying(nn.Linear):
    def forward(self, images):
        return os._exit(3) if len(images) == 32 else super().forward(images.flatten(1))

def broken(classes, image_size):
    return Dying(3 * image_size**2, classes)
"""


def test_failing_step_leaves_a_failed_record_and_exit_code_1(stores: Stores, tmp_path: Path) -> None:
    task = stores.here.model_copy(update={"model": Model(name="nets:broken")})
    (tmp_path / "digits.json").write_text(task.model_dump_json())
    (tmp_path / "nets.py").write_text(DIES_IN_TRAINING)
    command = [preloaded_retrain(), "run", "-t", "./digits.json", "--on", "kfp-local", "--json"]
    command += ["--method", "scratch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout))
    assert (record.outcome, record.method, record.result) == ("failed", "scratch", None)
    assert "failed" in str(record.error)
    assert "Traceback" not in done.stderr
    assert TaskStore(LocalStore(Path(stores.here.store)), "digits").ledger.find(record.run_id) == record
