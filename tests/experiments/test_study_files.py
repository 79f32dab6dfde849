"""Tests of study files: settings of a method that it does not use, and messages about wrong files."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.rendered import ROOT
from support.studying import CPU, small_study, workplace
from support.terminal import retrain

from retrain.config.loading import load_yaml
from retrain.errors import StudyError, TaskError
from retrain.experiments import files
from retrain.experiments.drops import DataRoot
from retrain.experiments.files import load_study
from retrain.experiments.grid import Cell, all_cells, cells, task_of
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs

ALL = r"\[initialization, objective, sampling, schedule\]"


@pytest.mark.parametrize(
    ("settings", "path", "aspects"),
    [
        ({"recipe": {"preset": "default"}}, "recipe.preset", ALL),
        ({"recipe.preset": "paper"}, "recipe.preset", ALL),
        ({"recipe.sampling.name": "easy_hard"}, "recipe.sampling.name", r"\[sampling\]"),
        ({"recipe.schedule": {"scale": 0.5}}, "recipe.schedule.scale", r"\[schedule\]"),
        ({"recipe.schedule.name": "constant"}, "recipe.schedule.name", r"\[schedule\]"),
    ],
)
def test_study_refuses_recipe_settings_of_missing_aspects(settings: dict[str, Any], path: str, aspects: str) -> None:
    message = rf"methods.other\n.* set: {path} does not replace the recipe of start: naive; add aspects: {aspects}"
    with pytest.raises(ValidationError, match=message):
        small_study(methods={"scratch": {"start": "scratch"}, "other": {"set": settings}})


@pytest.mark.parametrize(
    "method",
    [
        {"aspects": ["objective"], "set": {"recipe": {"preset": "paper"}}},
        {"set": {"recipe.schedule": {"name": "multistep", "milestones": [0.3]}}},
        {"set": {"training.epochs": 2}},
    ],
)
def test_study_accepts_settings_that_change_the_method(
    method: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "tiny.yaml").write_text("name: tiny\ndata: {image_size: 8}\n")
    monkeypatch.setenv("RETRAIN_TASKS", str(folder))
    study = small_study(methods={"scratch": {"start": "scratch"}, "naive": {}, "other": method})
    naive, other = (task_of(study, Cell("task", "7+3", name, 2, 0), None) for name in ("naive", "other"))
    assert naive != other


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "My study"}, "name: must be 1 to 63 lower-case letters, .* [(]got 'My study'[)]"),
        ({"splits": {"7+3": {"by": "colour"}}}, "splits.7[+]3.by: must be 'classes', 'share', .* [(]got 'colour'[)]"),
        ({"methods": {"a": {"aspect": []}}}, "methods.a.aspect: unknown field 'aspect'; .* did you mean .*aspects[?]"),
        ({"methods": {"a": None}}, "methods.a: must be a mapping of fields [(]got None[)]"),
        (
            {"data": [{"names": "d1"}]},
            "data.0.name: is missing\n.*data.0.names: unknown field 'names'; .*mean data.0.name",
        ),
        ({"splits": {"s": {"by": "classes", "step": 5}}}, "splits.s: step and steps must be set together"),
        ({"splits": {"s": {"by": "classes", "sizes": "4+x"}}}, "splits.s: sizes: must be positive whole .*'4[+]x'"),
        ({"splits": {"s": {"by": "component", "sizes": "70+20"}}}, "splits.s: sizes: 70[+]20 adds up to 90; perc"),
        ({"splits": {"s": {"by": "source", "sizes": "70+30"}}}, "splits.s: sizes: not allowed with by: source"),
        ({"seeds": [0, 1, 0]}, r"seeds: list each seed once [(]got 0, 1, 0[)]"),
        ({"data": []}, "data: must have at least 1 item"),
        ({"paper": 3}, "paper: must be a list [(]got 3[)]"),
        ({"paper": "own"}, "paper: .*own.yaml has no rows of its own under `paper`: name a study that has them"),
        ({"paper": "../own"}, "paper: must be the name of a study in the same folder"),
        ({"splits": {"all": {"by": "classes", "sizes": "10"}}}, "splits.all: has one drop: methods differ from the"),
        ({"splits": {"all": {"by": "source"}}}, "splits.all: has one drop: methods differ from the second drop on"),
        ({"extends": "own"}, "extends: leads back to .*own.yaml: remove `extends` from one of these files"),
        ({"extends": ["own"]}, r"extends: must be the name of a study .* [(]got \['own'\][)]"),
    ],
)
def test_study_file_errors_are_one_readable_line_each(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(small_study().model_dump(mode="json") | changed))
    with pytest.raises(StudyError, match=f"^{path}: {message}"):
        load_study(str(path))


def test_study_refuses_a_methods_wrong_setting_before_training(tmp_path: Path) -> None:
    with workplace(tmp_path) as root:
        method = {"aspects": ["initialization"], "set": {"recipe.initialization.alpha": date(2026, 1, 1)}}
        runs = Runs(small_study(methods={"scratch": {"start": "scratch"}, "other": method}), str(tmp_path / "store"))
        wrong = "^study small: methods.other.set: recipe.initialization.alpha: must be a number"
        with pytest.raises(TaskError, match=wrong):
            run(runs, DataRoot(root), CPU)
        assert not (tmp_path / "store").exists()


def test_example_task_of_a_study_is_announced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("digits")
    monkeypatch.delenv("RETRAIN_TASKS", raising=False)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "retrain"):
        runs = Runs(study, str(tmp_path / "store"))
        assert {runs.task(cell).model.name for cell in all_cells(study)} == {"mlp"}
    assert len([message for message in caplog.messages if "using the example task" in message]) == 1


def test_shared_study_files_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(tmp_path))
    (tmp_path / "base.yaml").write_text(small_study(name="base").model_dump_json())
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(f"extends: base\nname: {name}\n")
    parsed: list[str] = []

    def parse(text: str, source: str) -> object:
        parsed.append(Path(source).stem)
        return load_yaml(text, source)

    monkeypatch.setattr(files, "load_yaml", parse)
    assert [study.name for study in files.all_studies()] == ["base", "first", "second"]
    assert sorted(parsed) == ["base", "first", "second"]


def test_study_list_shows_own_questions_and_names_wrong_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(tmp_path))
    own = small_study(repeats=["Ours, whether to shrink"])
    (tmp_path / "small.yaml").write_text(own.model_dump_json())
    (tmp_path / "typo.yaml").write_text("name: typo\nsede: [1]\n")
    (tmp_path / "tabs.yaml").write_text("name:\t[\n")
    ran = retrain(["study", "list", "--root", str(tmp_path), "--out", str(tmp_path)], capfd)
    assert ran.code == 0
    assert "Ours, whether to shrink: your own question\n    small " in ran.out
    tabs, typo = caplog.messages
    assert tabs.startswith(f"study tabs is left out, because its file is wrong: {tmp_path}/tabs.yaml: line 1, column ")
    assert f"{tmp_path}/typo.yaml: sede: unknown field 'sede'" in typo


def test_study_of_the_guide_is_valid_and_has_its_15_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, example = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "studies.md").read_text(), re.M | re.S)
    for folder, name, text in (("tasks", "leaves", task), ("studies", "leaves-start", example)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.yaml").write_text(text)
        monkeypatch.setenv(f"RETRAIN_{folder.upper()}", str(tmp_path / folder))
    study = load_study("leaves-start")
    grid = [*cells(study, 1), *cells(study, 2)]
    starts = {cell.method: task_of(study, cell, None).recipe.initialization.name for cell in grid[3:]}
    assert len(grid) == 15
    assert starts == {"scratch": "fresh", "naive": "warm", "shrink": "shrink_perturb", "default": "auto"}
