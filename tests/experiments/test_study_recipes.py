"""Stored runs of studies used the paper's recipe. A new default must not change what they mean."""

from itertools import chain
from pathlib import Path

import pytest

from retrain.config.recipe import Constant
from retrain.experiments.files import load_study
from retrain.experiments.grid import cells, parts_of, task_of
from retrain.pipeline.planning import resolve_averaging

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_study_cells_use_paper_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TASKS", str(ROOT / "tasks"))
    monkeypatch.setenv("RETRAIN_STUDIES", str(ROOT / "studies"))
    study = load_study(name)
    longest = max(parts_of(study, split) for split in study.splits)
    for cell in chain.from_iterable(
        cells(study, drops) for drops in range(1, min(longest, 2) + 1)
    ):  # later ones: alike
        if cell.seed == study.seeds[0] and cell.method != "default":
            task = task_of(study, cell, None)
            assert task.recipe.preset == "paper"
            assert not isinstance(task.recipe.schedule, Constant)
            assert task.training.evaluate_every != "auto"
            assert resolve_averaging(task).kind == "none"
