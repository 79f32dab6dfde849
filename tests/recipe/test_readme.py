"""The table in retrain/recipe/README.md names functions that exist and settings that a task file accepts."""

import importlib
import re
from pathlib import Path

import pytest

from retrain.config import recipe as settings

README = (Path(__file__).parents[2] / "retrain" / "recipe" / "README.md").read_text()
ROWS = [line for line in README.splitlines() if re.match(r"\| (\[\d\]|ours)", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| "))
def test_readme_names_existing_functions(row: str) -> None:
    module = ""
    for name in re.findall(r"`([\w.]+)`", row.split(" | ")[1]):
        module, _, function = name.rpartition(".") if "." in name else (module, "", name)
        assert hasattr(importlib.import_module(f"retrain.recipe.{module}"), function), name


@pytest.mark.parametrize("aspect", ["initialization", "objective", "sampling", "schedule"])
def test_readme_names_existing_settings(aspect: str) -> None:
    union = getattr(settings, aspect.capitalize()).__origin__
    fields = {kind.model_fields["name"].default: set(kind.model_fields) for kind in union.__args__}
    named = re.findall(rf"`recipe\.{aspect}: {{name: ([^,}}`]+)([^}}`]*)}}`", README)
    assert named
    for names, rest in named:
        for name in names.split(" or "):
            assert set(re.findall(r"\w+(?=[,:]|$)", re.sub(r": [^,]+", "", rest))) <= fields[name], (name, rest)


def test_readme_has_a_row_for_each_file_of_the_recipe() -> None:
    named = {module for row in ROWS for module in re.findall(r"`(\w+)\.\w+", row)}
    files = {path.stem for path in (Path(__file__).parents[2] / "retrain" / "recipe").glob("*.py")} - {"__init__"}
    assert files <= named
