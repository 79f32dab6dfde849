"""Tests of studies on Kubeflow: their submission, and their pipeline. kfp runs the pipeline in local processes here."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from kfp import dsl, local
from retrain.pipelines.study import define_study
from support.kfp_server import KfpServer, serving
from support.processes import preloaded_python
from support.studying import CPU, small_study, workplace
from typer.testing import CliRunner

from retrain.cli import app
from retrain.errors import StudyError
from retrain.experiments.drops import DataRoot
from retrain.experiments.grid import Cell
from retrain.experiments.runner import plan_ahead, run
from retrain.experiments.runs import Runs


@pytest.fixture(autouse=True, scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with a task, digits and a cache for the tests of this module."""
    with workplace(tmp_path_factory.mktemp("kubeflow")) as root:
        yield root


def digests(runs: Runs) -> dict[Cell, str | None]:
    runs.forget()
    return {one.cell: one.record.result.model_digest for one in runs.ended_runs() if one.record.result}


def test_study_pipeline_trains_the_same_models_as_a_local_study(
    study_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", preloaded_python())  # kfp starts steps with this program
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    here, there = (Runs(small_study(methods=methods), str(tmp_path / name)) for name in ("here", "there"))
    run(here, DataRoot(study_root), CPU)
    levels = plan_ahead(there, DataRoot(study_root))
    assert [len(level) for level in levels] == [1, 2]

    def keep_tidy(step: dsl.PipelineTask, name: str) -> None:
        step.set_env_variable("TMPDIR", str(tmp_path))

    logging.disable(logging.INFO)
    with redirect_stdout(StringIO()):
        local.init(local.SubprocessRunner(use_venv=False), str(tmp_path / "out"), raise_on_error=True)
        define_study("small", levels, "python", keep_tidy)(device="cpu")
    logging.disable(logging.NOTSET)
    assert digests(there) == digests(here)
    assert plan_ahead(there, DataRoot(study_root)) == []


def test_study_is_submitted_once_as_successive_loops(
    study_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    study = tmp_path / "small.yaml"
    study.write_text(small_study().model_dump_json())
    with serving() as server:
        said = [submit(server, study, study_root, tmp_path) for _ in range(2)]
        assert len(server.runs) == 1
        [spec] = [run["pipeline_spec"] for run in server.runs]
    assert "small: 4 runs submitted as Kubeflow run" in said[0]
    assert "small: 4 runs already submitted as Kubeflow run" in said[1]
    spec = spec.get("pipeline_spec", spec)
    levels = spec["root"]["dag"]["tasks"]
    assert levels["drops-2"]["dependentTasks"] == ["drops-1"]
    loops = [
        json.loads(task["parameterIterator"]["items"]["raw"])
        for component in spec["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    ]
    assert sorted(map(len, loops)) == [1, 3]
    longest = max(len(json.dumps(trial)) for loop in loops for trial in loop)
    assert longest < 200 + len(str(tmp_path)), "Kubernetes stores thousands of trials in one object of at most 1.5 MB"


def submit(server: KfpServer, study: Path, study_root: Path, folder: Path) -> str:
    options = ["--on", "kubeflow", "--host", server.url, "--root", str(study_root), "--store", str(folder / "store")]
    ended = CliRunner().invoke(app, ["study", "run", str(study), *options], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_study_with_drops_chosen_by_models_is_not_submitted(study_root: Path, tmp_path: Path) -> None:
    study = small_study(splits={"m": {"by": "margin", "sizes": "40+60"}})
    with pytest.raises(StudyError, match="split m: its later drops depend on trained models"):
        plan_ahead(Runs(study, str(tmp_path)), DataRoot(study_root))
