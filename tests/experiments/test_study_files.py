"""Tests of study files: settings of a method that it does not use, and messages about wrong files."""

from typing import Any

import pytest
from pydantic import ValidationError
from support.studying import small_study

from retrain.experiments.grid import Cell, task_of

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
    message = rf"methods.other\n.*set: {path} is not used, .* start: naive; add aspects: {aspects}"
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
