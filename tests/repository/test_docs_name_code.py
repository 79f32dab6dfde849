"""Pages name code that exists: tests and files, functions of the recipe, and settings that a task file accepts."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from retrain.config import recipe as settings

ROOT = Path(__file__).parents[2]
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
RECIPE = (ROOT / "retrain" / "recipe" / "README.md").read_text()
ROWS = [line for line in RECIPE.splitlines() if re.match(r"\| (\[\d\]|new in)", line)]
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", RELIABILITY))))
def test_reliability_page_names_existing_tests(name: str) -> None:
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", RELIABILITY))))
def test_reliability_page_names_existing_files(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("case", sorted(set(re.findall(r"(?<!`)\[([^]]+)\](?!\()", RELIABILITY))))
def test_reliability_page_names_existing_test_ids(case: str) -> None:
    assert f'"{case}"' in TESTS


def test_security_page_names_existing_tests() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if hasattr(node, "name")}
            assert name in functions, f"{path}::{name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| "))
def test_recipe_page_names_existing_functions(row: str) -> None:
    module = ""
    for name in re.findall(r"`([\w.]+)`", row.split(" | ")[1]):
        module, _, function = name.rpartition(".") if "." in name else (module, "", name)
        assert hasattr(importlib.import_module(f"retrain.recipe.{module}"), function), name


@pytest.mark.parametrize("aspect", ["initialization", "objective", "sampling", "schedule"])
def test_recipe_page_names_existing_settings(aspect: str) -> None:
    union = getattr(settings, aspect.capitalize()).__origin__
    fields = {kind.model_fields["name"].default: set(kind.model_fields) for kind in union.__args__}
    named = re.findall(rf"`recipe\.{aspect}: {{name: ([^,}}`]+)([^}}`]*)}}`", RECIPE)
    assert named
    for names, rest in named:
        for name in names.split(" or "):
            assert set(re.findall(r"\w+(?=[,:]|$)", re.sub(r": [^,]+", "", rest))) <= fields[name], (name, rest)


def test_readme_has_a_row_for_each_file_of_the_recipe() -> None:
    named = {module for row in ROWS for module in re.findall(r"`(\w+)\.\w+", row)}
    files = {path.stem for path in (ROOT / "retrain" / "recipe").glob("*.py")} - {"__init__"}
    assert files <= named
