"""docs/cli.md and docs/metrics.md match the code: every command, option and metric, and the schemas of JSON output."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from retrain.cli import app

DOCS = Path(__file__).parents[2] / "docs"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name."""
    yield name, command
    for child in getattr(command, "commands", {}).values():
        yield from commands(child, f"{name} {child.name}")


sys.path.insert(0, str(DOCS))  # its scripts import each other
ALL = dict(commands(typer.main.get_command(app), "retrain"))


def test_cli_page_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "reference.py"))["cli_page"]()
    assert (DOCS / "cli.md").read_text() == page, "run `make docs`"


def test_commands_and_parameters_have_descriptions() -> None:
    assert {"retrain run", "retrain drop pack", "retrain task init", "retrain rollback"} <= set(ALL)
    silent = [name for name, command in ALL.items() if not (command.help or "").strip().endswith(".")]
    mute = [
        f"{name} {parameter.name}"
        for name, command in ALL.items()
        for parameter in command.params
        if not parameter.help
    ]
    assert (silent, mute) == ([], [])


def test_cli_page_has_every_command() -> None:
    headings = [
        line.removeprefix("## ") for line in (DOCS / "cli.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert headings == [name for name, command in ALL.items() if not hasattr(command, "commands")]


def test_commands_that_print_json_have_a_schema() -> None:
    schemas = runpy.run_path(str(DOCS / "schemas.py"))
    printing = {
        name for name, command in ALL.items() if any(p.name == "as_json" for p in getattr(command, "params", ()))
    }
    assert set(schemas["PRINTED"]) == printing
    for name in printing:
        assert (DOCS / schemas["file_of"](name)).read_text() == schemas["schema"](name), "run `make docs`"
    assert len(list((DOCS / "schemas").iterdir())) == len(printing)


def test_metrics_page_is_up_to_date() -> None:
    module = runpy.run_path(str(DOCS / "reference.py"))
    assert (DOCS / "metrics.md").read_text() == module["metrics_page"](), "run `make docs`"
